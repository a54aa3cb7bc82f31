"""LoRA: the reference is the policy with its adapters off, bit for bit, and no second model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.references import Reference, WithoutAdapters
from dschat.settings.online import online_config
from online_fixtures import learn, make_trainer, score

LORA = {"actor_lora_dim": 4, "actor_lora_module_name": "layers.", "only_optimize_lora": True}


def run(trainer: Any, iterations: int = 3) -> list[dict[str, float]]:
    rows = []
    for i in range(iterations):
        metrics = trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8])
        rows.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
    return rows


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"actor_zero_stage": 2, "actor_gradient_checkpointing": True, "actor_dropout": 0.2},
        {"actor_zero_stage": 3, "actor_gradient_checkpointing": True},
        {"actor_zero_stage": 3, "enable_zero3_generation_gather": True},
    ],
)
def test_training_is_that_with_a_separate_reference_to_the_bit(
    settings: Any, tiny_model_dir: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes.get("actor_zero_stage") == 3:
        # Else the tiny model's weights are small enough to stay whole.
        path = tmp_path / "deepspeed.json"
        threshold = {"stage3_param_persistence_threshold": 0}
        path.write_text(json.dumps({"zero_optimization": threshold}))
        changes = {**changes, "deepspeed_config": str(path)}
    shared = make_trainer(settings(**LORA, **changes))
    assert isinstance(shared.scorer.penalty.references[0], WithoutAdapters)
    rows = run(shared)
    separate = make_trainer(settings(**LORA, **changes, refs=[str(tiny_model_dir)]))
    assert isinstance(separate.scorer.penalty.references[0], Reference)
    assert run(separate) == rows
    assert rows[0]["divergence"] == 0 < rows[1]["divergence"]


@pytest.mark.parametrize("wasserstein", [False, True])
def test_the_reference_stays_the_initial_policy(settings: Any, wasserstein: bool) -> None:
    changes = {"cost_dim": 20, "top_k": 8, "epsilon": 0.1} if wasserstein else {}
    trainer = make_trainer(settings(**LORA, **changes), wasserstein=wasserstein)
    rollouts = trainer.sample(trainer.prompts[:8])
    before, _ = score(trainer, rollouts)
    learn(trainer, before)
    after, _ = score(trainer, rollouts)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a.reference_logprobs, b.reference_logprobs)
        assert torch.equal(a.logprobs, a.reference_logprobs)  # fresh adapters change nothing
        assert not torch.equal(b.logprobs, b.reference_logprobs)
    trainable = {n for n, p in trainer.actor.module.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)  # also after the adapters were off


def test_base_weights_are_in_memory_once(settings: Any, tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    def elements(trainer: Any) -> int:
        modules = [trainer.actor.module, *(r.policy for r in trainer.scorer.penalty.references)]
        storages = {
            p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() // p.element_size()
            for m in modules
            for p in m.parameters()
        }
        return sum(storages.values())

    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    base = sum(p.numel() for p in plain.parameters())
    trainer = make_trainer(settings(**LORA))
    adapters = sum(p.numel() for n, p in trainer.actor.module.named_parameters() if "lora_" in n)
    assert elements(trainer) == base + adapters
    # Where the base weights are trained as well, the initial policy has to be kept beside them.
    both = make_trainer(settings(**{**LORA, "only_optimize_lora": False}))
    assert isinstance(both.scorer.penalty.references[0], Reference)
    assert elements(both) == 2 * base + adapters


def test_nothing_is_left_to_offload_where_programs_are_run(settings: Any) -> None:
    flags = settings(**LORA, offload_reference_model=True)
    with pytest.raises(UserError, match="no reward model. Remove the flag"):
        online_config(**flags, reward=["code"]).validate()
    make_trainer(flags)  # a reward model is there to wait elsewhere


@pytest.mark.parametrize(
    "changes", [{"reference_residency": "cpu"}, {"reference_quantization": "8bit"}]
)
def test_flags_of_a_second_model_are_refused(settings: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="adapters off.*Remove the flag"):
        make_trainer(settings(**LORA, **changes))
