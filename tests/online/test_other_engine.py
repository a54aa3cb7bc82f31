"""An iteration whose responses another engine drew: log mu travels with its tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.rollout.backends.in_place import NativeBackend
from dschat.scoring.rollout_correction import RolloutCorrection
from dschat.settings.online import online_config
from online_fixtures import make_trainer

HOTTER = 1.3


class AtAnotherTemperature(NativeBackend):
    """Samples from mu, the policy at a higher temperature, and tells log mu by its own passes."""

    def __call__(self, engine: Any, request: Any) -> list[list[int]]:
        settings = replace(request.settings, temperature=HOTTER)
        responses = super().__call__(engine, replace(request, settings=settings))
        self.logprobs, self.kl = [], []
        for prompt, response in zip(request.prompts(), responses, strict=True):
            with torch.no_grad():
                logits = engine.module.model(input_ids=torch.tensor([prompt + response])).logits[0]
            logits = logits[len(prompt) - 1 : -1, : request.settings.vocabulary_size].double()
            chosen = torch.tensor(response)[:, None]
            mu, pi = ((logits / t).log_softmax(-1).gather(1, chosen)[:, 0] for t in (HOTTER, 0.8))
            self.logprobs.append(mu.tolist())
            self.kl += ((pi - mu).exp() - 1 - (pi - mu)).tolist()
        return responses


def trainer_with(settings: Any, correction: RolloutCorrection) -> Any:
    trainer = make_trainer(
        settings(algorithm="grpo", num_generations=2, ppo_epochs=2, max_answer_seq_len=12)
    )
    trainer.backend = AtAnotherTemperature()
    sampler = replace(trainer.sampler.sampler, backend=trainer.backend)
    trainer.sampler = replace(trainer.sampler, sampler=sampler)
    trainer.correction = correction
    return trainer


def test_log_mu_stays_with_its_token_when_rows_are_rearranged(settings: Any) -> None:
    """Micro-batches are regrouped by length; the KL is that of passes over single responses."""
    trainer = trainer_with(settings, RolloutCorrection("tis", 1.05))
    metrics = trainer.run_iteration(trainer.prompts[:4])
    per_token = trainer.backend.kl
    assert metrics["rollout/kl"] == pytest.approx(sum(per_token) / len(per_token), rel=1e-3)
    assert metrics["rollout/kl_per_response"] == pytest.approx(sum(per_token) / 8, rel=1e-3)
    assert metrics["rollout/largest_ratio"] > 1.05
    assert 0 < metrics["rollout/corrected"] < 1
    assert metrics["skipped"] == 0


def test_the_weights_change_what_is_learnt_and_without_mismatch_nothing(settings: Any) -> None:
    found = []
    for kind in ("none", "tis", "mask"):
        trainer = trainer_with(settings, RolloutCorrection(kind, 1.05))
        metrics = trainer.run_iteration(trainer.prompts[:4])
        found.append(metrics["policy_loss"])
        assert ("rollout/corrected" in metrics) == (kind != "none")
    assert len(set(found)) == 3
    trainer = trainer_with(settings, RolloutCorrection("tis"))
    trainer.sampler = replace(
        trainer.sampler, sampler=replace(trainer.sampler.sampler, backend=NativeBackend())
    )
    assert "rollout/kl" not in trainer.run_iteration(trainer.prompts[:4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_correction": "none"}, "--rollout_correction: .*native the policy itself"),
        ({"rollout_correction_cap": 2.0}, "--rollout_correction_cap: .*Remove the flag"),
        ({"rollout_max_kl": 1.0}, "--rollout_max_kl: with --generation_backend native"),
        ({"vllm_tensor_parallel_size": 2}, "tensor_parallel_size 2 belongs to .* vllm"),
        ({"vllm_keep_memory": True}, "--vllm_keep_memory True belongs to"),
        (
            {"generation_backend": "vllm", "rollout_correction": "none",
             "rollout_correction_level": "token"},
            "level has no effect with --rollout_correction none",
        ),
        (
            {"generation_backend": "vllm", "rollout_correction_cap": 1.0},
            "--rollout_correction_cap 1.0: expected a number above 1",
        ),
        ({"generation_backend": "vllm", "rollout_max_kl": 0.0}, "--rollout_max_kl 0.0: expected"),
        ({"generation_backend": "vllm", "vllm_tensor_parallel_size": 0}, "size 0: expected"),
    ],
)  # fmt: skip
def test_flags_that_would_do_nothing_are_refused(
    settings: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        online_config(**settings(**changes)).validate()


def test_tis_is_what_vllm_gets_unless_told_otherwise(settings: Any) -> None:
    for given, expected in (({}, "tis"), ({"rollout_correction": "mask"}, "mask")):
        config = online_config(**settings(generation_backend="vllm", **given))
        config.validate()
        assert config.rollout_correction == expected
    native = online_config(**settings())
    native.validate()
    assert native.rollout_correction is None
