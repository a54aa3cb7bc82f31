"""Groups share their prompt in scoring and update alike: ratios start at exactly 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.models import output_layer, policy
from dschat.online.losses import policy_terms
from online_fixtures import make_trainer, online_settings, score


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bf16", "actor_zero_stage": 2},
        {"actor_zero_stage": 3},
        {"actor_zero_stage": 3, "enable_zero3_generation_gather": True},
        {"actor_lora_dim": 2, "actor_lora_module_name": "layers."},
    ],
)
def test_ratios_start_at_exactly_one(
    changes: dict[str, Any],
    tmp_path: Path,
    tiny_model_dir: Path,
    tiny_reward_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    whole = policy.response_states
    monkeypatch.setattr(
        policy, "response_states", lambda *args: (calls.append(len(args[1])), whole(*args))[1]
    )
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 200 * 7)  # several chunks in a micro-batch
    group = {"algorithm": "grpo", "num_generations": 4}
    settings = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **group, **changes)
    trainer = make_trainer(settings)
    prompts = [p for p in trainer.prompts[:2] for _ in range(4)]
    for _ in range(2):  # from the start, and again after an update
        experiences, _ = score(trainer, trainer.sample(prompts))
        trainer.actor.train()
        for experience in experiences:
            mask = experience.rollout.response_mask
            now = policy_terms(trainer.actor, experience, 0).logprobs.detach()
            assert torch.equal(now[mask], experience.logprobs[mask])
        trainer.run_iteration(trainer.prompts[2:4])
    # Two micro-batches, each by policy and reference and in the update.
    assert len(calls) >= 2 * 2 * 3
