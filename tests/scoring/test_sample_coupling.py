"""Responses that are drawn with the random numbers of the references' samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dschat.online.references.reference_sampling import draw_reference_samples
from online_fixtures import make_trainer, online_settings

GROUP = {"algorithm": "grpo", "num_generations": 4}


@pytest.fixture
def trainer(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    """The policy is the reference; two samples for each prompt, four responses in a group."""
    made = make_trainer(online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **GROUP))
    made.prompts = draw_reference_samples(
        made.prompts,
        made.scorer.penalty.references,
        [1.0],
        2,
        replace(made.sampler.sampler, backend=None, batch_size=8),
        tmp_path,
    )
    return made


def responses(trainer: Any, prompts: list[Any]) -> dict[int, list[int]]:
    """Token ids by place."""
    trainer.iteration = 3
    rollouts = trainer.sample([p for p in prompts for _ in range(4)])
    return {
        place: example["response_ids"]
        for r in rollouts
        for place, example in zip(r.indices.tolist(), r.examples, strict=True)
    }


def test_a_policy_that_is_the_reference_answers_with_the_samples(trainer: Any) -> None:
    prompts = trainer.prompts[1:3]
    found = responses(trainer, prompts)
    free = responses(trainer, [replace(p, sample_rows=()) for p in prompts])
    for i, prompt in enumerate(prompts):
        for m in range(4):
            place = 4 * i + m
            if m < 2:
                assert found[place] == prompt.samples[m]
                assert free[place] != prompt.samples[m]
            else:
                assert found[place] == free[place]


@pytest.mark.parametrize(("backend", "first"), [("native", 2), ("vllm", 0)])
def test_random_numbers_are_shared_in_the_first_epoch_only(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, backend: str, first: int
) -> None:
    """And not where vLLM draws by its own: what has nothing in common is no control variate."""
    monkeypatch.setattr(trainer.backend, "name", backend)
    trainer.config = replace(trainer.config, num_train_epochs=2)
    seen = []

    def run(prompts: list[Any]) -> dict[str, float]:
        seen.append({len(p.sample_rows) for p in prompts})
        assert all(len(p.samples) == 2 for p in prompts)
        trainer.iteration += 1
        return {"step": 0, "iteration": trainer.iteration, "skipped": 1.0, "bad_steps": 0.0}

    monkeypatch.setattr(trainer, "run_iteration", run)
    with trainer.report.log:
        trainer.train()
    half = len(seen) // 2
    assert half > 0
    assert seen == [{first}] * half + [{0}] * half
