"""Models that are not trained: their dtype, and that each is in memory once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.references import Reference
from dschat.online import models as online_models
from dschat.online.references import load_references
from dschat.rewards import as_reward
from dschat.rewards.critic_reward import CriticWithoutAdapters
from dschat.rewards.reward_model import RewardModel
from dschat.settings.online import OnlineConfig, online_config
from online_fixtures import grpo_config, make_trainer, online_settings, score
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

ACTOR_LORA = {"actor_lora_dim": 4, "actor_lora_module_name": "layers.", "only_optimize_lora": True}
CRITIC_LORA = {
    "critic_lora_dim": 4,
    "critic_lora_module_name": "layers.",
    "critic_lora_learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "only_optimize_lora": True,
}


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    return lambda **changes: online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes)


def run(trainer: Any, iterations: int = 2) -> list[dict[str, float]]:
    rows = []
    for i in range(iterations):
        metrics = trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8])
        rows.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
    return rows


def dtypes(module: Any) -> set[torch.dtype]:
    return {p.dtype for p in module.parameters()}


def test_frozen_models_are_loaded_in_their_dtype(
    settings: Any, tiny_model_dir: Path, tiny_reward_dir: Path, capsys: Any
) -> None:
    trainer = make_trainer(settings(frozen_dtype="bf16"))
    said = capsys.readouterr().out
    assert "references are in bf16 and the policy in fp32" in said
    assert "does not start at exactly 0" in said
    reference = trainer.scorer.penalty.references[0].policy
    assert dtypes(reference) == dtypes(trainer.reward.reward.model) == {torch.bfloat16}
    assert dtypes(trainer.actor.module) == dtypes(trainer.critic.module) == {torch.float32}
    for body in (reference.model.model, trainer.reward.reward.model.model):
        assert body.rotary_emb.inv_freq.dtype == torch.float32  # not cast after loading
    (experience, *_), _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    rollout = experience.rollout
    inputs = {"attention_mask": rollout.attention_mask, "input_ids": rollout.input_ids}
    inputs["position_ids"] = (rollout.attention_mask.cumsum(1) - 1).clamp(min=0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).eval()
    length = rollout.response_mask.shape[1]
    logits = model(**inputs).logits[:, -length - 1 : -1].float() / trainer.config.temperature
    expected = logits.log_softmax(-1).gather(2, rollout.actions.unsqueeze(2)).squeeze(2)
    mask = rollout.response_mask
    found = experience.reference_logprobs
    torch.testing.assert_close(found[mask], expected[mask].detach(), atol=1e-5, rtol=1e-5)
    difference = (experience.logprobs - found)[mask].abs()
    assert 0 < difference.max() < 0.1
    scorer = AutoModelForSequenceClassification.from_pretrained(
        tiny_reward_dir, dtype=torch.bfloat16
    ).eval()
    for example, given in zip(rollout.examples, experience.scores.tolist(), strict=True):
        ids = torch.tensor([example["prompt_ids"] + example["response_ids"]])
        assert float(scorer(input_ids=ids).logits.detach()) == pytest.approx(given, abs=2e-2)
    assert run(trainer)[0]["divergence"] != 0


def test_the_policys_own_dtype_is_no_reason_to_warn(settings: Any, capsys: Any) -> None:
    same = make_trainer(settings(frozen_dtype="fp32"))
    assert "WARNING" not in capsys.readouterr().out
    assert run(same) == run(make_trainer(settings()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen_dtype": "fp16"}, "--frozen_dtype fp16 needs a GPU"),
        ({"frozen_dtype": "int8"}, "--frozen_dtype 'int8' is unknown"),
        (
            {"frozen_dtype": "bf16", **ACTOR_LORA, **CRITIC_LORA},
            "--frozen_dtype: .* the reward model is the critic itself. Remove the flag",
        ),
        (
            {"offload_reference_model": True, **ACTOR_LORA, **CRITIC_LORA},
            "--offload_reference_model: .* the reward model is the critic itself. Remove",
        ),
    ],
)
def test_what_is_refused(settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen_dtype": "bf16"}, "--frozen_dtype bf16 and a policy in fp32 with the Sinkhorn"),
        (
            {"dtype": "bf16", "reuse_rollout_logprobs": True},
            "--reuse_rollout_logprobs in bf16 with the Sinkhorn",
        ),
        ({"frozen_dtype": "bf16", **ACTOR_LORA}, None),  # the reference is the policy
        ({"reuse_rollout_logprobs": True}, None),
        ({"dtype": "bf16"}, None),
    ],
)
def test_rounding_in_16_bits_is_no_drift_to_the_sinkhorn_divergence(
    settings: Any, changes: dict[str, Any], message: str | None
) -> None:
    given = settings(regularizer="sinkhorn_divergence", **changes)
    if message is None:
        make_trainer(given)
        return
    with pytest.raises(UserError, match=message):
        make_trainer(given)


def test_with_adapters_on_the_actor_the_dtype_is_the_reward_models(
    settings: Any, capsys: Any
) -> None:
    trainer = make_trainer(settings(frozen_dtype="bf16", **ACTOR_LORA))
    assert "WARNING" not in capsys.readouterr().out
    assert dtypes(trainer.reward.reward.model) == {torch.bfloat16}
    assert dtypes(trainer.actor.module) == {torch.float32}
    assert run(trainer, 1)[0]["divergence"] == 0
    flags = settings(frozen_dtype="bf16", **ACTOR_LORA)
    with pytest.raises(UserError, match="--frozen_dtype: .* no reward model. Remove the flag"):
        online_config(**flags, reward=["code"]).validate()


@pytest.mark.parametrize(
    ("residency", "penalty"), [("all", "each"), ("all", "mixture"), ("one", "each")]
)
def test_a_folder_that_is_given_twice_is_loaded_and_asked_once(
    settings: Any,
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: Any,
    residency: str,
    penalty: str,
) -> None:
    mixture = {"regularizer": "kl", "kl_type": "fkl", "fkl_estimator": "per_state"}
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    copy = tmp_path / "copy"
    shutil.copytree(other, copy)
    link = tmp_path / "link"
    link.symlink_to(other)

    def rows_and_loads(refs: list[Path]) -> tuple[list[dict[str, float]], int, list[Any]]:
        loads = []
        plain = load_references.load_causal_lm
        flags = settings(refs=[str(r) for r in refs], ref_weights=[0.5, 0.2, 0.3])
        flags |= mixture if penalty == "mixture" else {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                load_references,
                "load_causal_lm",
                lambda *a, **k: (loads.append(a[0]), plain(*a, **k))[1],
            )
            trainer = make_trainer({**flags, "reference_residency": residency})
            passes: list[int] = []
            for reference in {id(r): r for r in trainer.scorer.penalty.references}.values():
                if isinstance(reference, Reference):
                    reference.policy.register_forward_hook(lambda *_: passes.append(1))
            rows = run(trainer)
        if residency == "one":
            return rows, len(loads), trainer.scorer.penalty.references
        # Two micro-batches in each of two iterations.
        assert len(passes) == 4 * len({id(r) for r in trainer.scorer.penalty.references})
        return rows, len(loads), trainer.scorer.penalty.references

    apart, loads_apart, _ = rows_and_loads([tiny_model_dir, other, copy])
    once, loads, references = rows_and_loads([tiny_model_dir, other, link])
    assert references[1] is references[2]
    assert references[0] is not references[1]
    assert once == apart
    assert loads < loads_apart
    if residency != "one":
        assert (loads, loads_apart) == (2, 3)


def partitioned(tmp_path: Path) -> dict[str, Any]:
    """ZeRO 3 with nothing left whole, although the tiny model's weights are small."""
    path = tmp_path / "deepspeed.json"
    threshold = {"stage3_param_persistence_threshold": 0}
    path.write_text(json.dumps({"zero_optimization": threshold}))
    stages = {"actor_zero_stage": 3, "critic_zero_stage": 3}
    return {**stages, "critic_gradient_checkpointing": True, "deepspeed_config": str(path)}


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_critic_without_adapters_is_the_reward_model_to_the_bit(
    settings: Any, tmp_path: Path, tiny_reward_dir: Path, monkeypatch: Any, stage: int
) -> None:
    changes: dict[str, Any] = {"critic_zero_stage": stage, "critic_dropout": 0.2, **CRITIC_LORA}
    if stage == 3:
        changes |= partitioned(tmp_path)
    trainer = make_trainer(settings(**changes))
    assert isinstance(trainer.reward.reward, CriticWithoutAdapters)
    before = trainer.sample(trainer.prompts[:8])
    values = [e.values for e in score(trainer, before)[0]]
    rows = run(trainer)
    trained = [e.values for e in score(trainer, before)[0]]
    assert not torch.equal(values[0], trained[0])  # adapters and head have moved
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_dir)
    separate = RewardModel(model, trainer.tokenizer.pad_token_id, 4, trainer.device)
    examples = [x for r in before for x in r.examples]
    none: list[str] = []
    assert trainer.reward.reward(none, none, examples) == separate(none, none, examples)
    trainable = {n for n, p in trainer.critic.module.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "score" in n for n in trainable)
    assert any("lora_" in n for n in trainable)
    monkeypatch.setattr(OnlineConfig, "reward_is_the_critic", lambda config: False)
    other = make_trainer(settings(**changes))
    assert isinstance(other.reward.reward, RewardModel)
    other.sample(other.prompts[:8])
    score(other, before)
    assert run(other) == rows


def test_a_shared_reward_model_is_in_memory_once(settings: Any, tiny_reward_dir: Path) -> None:
    loads = []
    plain = online_models.load_reward_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            online_models, "load_reward_model", lambda *a: (loads.append(a[0]), plain(*a))[1]
        )
        trainer = make_trainer(settings(**CRITIC_LORA))
    assert loads == [str(tiny_reward_dir)]
    own = {p.data_ptr() for p in trainer.critic.module.parameters()}
    extra = [p for p in trainer.reward.reward.head.parameters() if p.data_ptr() not in own]
    assert sum(p.numel() for p in extra) == trainer.critic.module.model.score.weight.numel()
    assert all(not p.requires_grad for p in extra)


@pytest.mark.parametrize(
    "changes", [{}, {"critic_lora_dim": 4, "critic_lora_module_name": "layers."}]
)
def test_a_critic_whose_base_is_trained_has_a_reward_model_beside_it(
    settings: Any, changes: dict[str, Any]
) -> None:
    assert isinstance(make_trainer(settings(**changes)).reward.reward, RewardModel)


@pytest.mark.parametrize("stage", [0, 3])
def test_the_reward_model_is_the_same_after_a_resume(
    settings: Any, tmp_path: Path, stage: int
) -> None:
    changes: dict[str, Any] = {**CRITIC_LORA, "checkpoint_steps": 2}
    changes |= {"enable_test_mode": True, "test_stop_step": 3}
    if stage == 3:
        changes |= partitioned(tmp_path)
    whole = make_trainer(settings(**changes))
    with whole.report.log:
        whole.train()
    folder = tmp_path / "out"
    (checkpoint,) = folder.glob("resumable-2")
    flags = {**settings(**changes), "output_dir": str(tmp_path / "again")}
    again = make_trainer({**flags, "resume_from_checkpoint": str(checkpoint)})
    assert again.iteration == 2
    with again.report.log:
        again.train()

    def last(path: Path) -> dict[str, float]:
        row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        return {k: v for k, v in row.items() if not k.startswith("time/")}

    assert last(tmp_path / "again") == last(folder)


def test_the_multi_reference_script_hands_its_flags_on() -> None:
    flags = {"ref_a": "a", "ref_b": "b", "output_dir": "out"}
    config = grpo_config(**flags, frozen_dtype="bf16", entropy_coef=0.1)
    assert (config.frozen_dtype, config.entropy_coef) == ("bf16", 0.1)


def test_a_rank_that_fails_in_a_collective_reward_asks_nobody_again(settings: Any) -> None:
    """The others wait for it within the reward: only its end can tell them."""
    calls: list[int] = []

    class Partitioned:
        collective = True

        def __call__(self, *_: Any) -> list[float]:
            calls.append(1)
            raise RuntimeError("no memory is left")

    trainer = make_trainer(settings())
    assert not trainer.reward.collective
    trainer.reward = as_reward(Partitioned())
    with pytest.raises(RuntimeError, match="no memory is left"):
        score(trainer, trainer.sample(trainer.prompts[:8]))
    assert len(calls) == 1
