"""Micro-batches by length, and whole groups per rank: the same optimiser steps for less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.models import policy
from dschat.online import loop, updates
from dschat.online.metrics import iteration_metrics
from dschat.rollout.experience import Experience, Rollout
from dschat.rollout.sampler import Sampler
from online_fixtures import make_trainer, online_settings, score

GROUP = {"algorithm": "grpo", "num_generations": 4}
FOUR = {"per_device_generation_batch_size": 16, "gradient_accumulation_steps": 4}


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    return lambda **changes: online_settings(
        tmp_path, tiny_model_dir, tiny_reward_dir, **{"max_answer_seq_len": 24, **changes}
    )


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of 1 to 24 tokens, each a function of its place."""

    def responses(
        sampler: Sampler, engine: Any, prompts: Any, uniform: torch.Tensor, *_: Any
    ) -> list[list[int]]:
        found = []
        for numbers in uniform:
            tokens = (4 + 190 * numbers).long().tolist()
            found.append([*tokens[: int(numbers[0] * 24)], 1])
        return found

    monkeypatch.setattr(Sampler, "sample", responses)


def as_dealt(
    lengths: Any, groups: Any, rows: Sequence[int], size: int
) -> list[list[int]]:  # in the place of `like_lengths`
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def iteration(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Metrics, the places of each step's responses, and each step's gradients."""
    found: dict[str, Any] = {"places": [], "gradients": []}
    plain_update, plain_step = updates.update, updates.optimizer_step

    def update(actor: Any, critic: Any, step: list[Experience], *rest: Any) -> Any:
        found["places"].append({int(p) for e in step for p in e.rollout.indices})
        return plain_update(actor, critic, step, *rest)

    def optimizer_step(engine: Any) -> float:
        found["gradients"].append([p.grad.clone() for p in engine.module.parameters()])
        return plain_step(engine)

    with monkeypatch.context() as patch:
        patch.setattr(updates, "update", update)
        patch.setattr(updates, "optimizer_step", optimizer_step)
        prompts = trainer.responses // trainer.group_size
        found["metrics"] = trainer.run_iteration(trainer.prompts[:prompts])
    return found


@pytest.mark.usefixtures("uneven")
@pytest.mark.parametrize(
    "changes",
    [
        FOUR,
        {**FOUR, **GROUP, "num_generations": 2},
        {**FOUR, **GROUP, "num_generations": 2, "loss_normalization": "sequence"},
        {**FOUR, **GROUP, "num_generations": 8},
        {**FOUR, "ppo_epochs": 2, "gradient_accumulation_steps": 2},
        {"generation_batches": 2, "ppo_epochs": 2},
        {"per_device_training_batch_size": 2, "gradient_accumulation_steps": 8},
    ],
)
def test_rows_by_length_make_the_same_steps_with_less_padding(
    settings: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arranged = iteration(make_trainer(settings(**changes)), monkeypatch)
    trainer = make_trainer(settings(**changes))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "steps_by_length", lambda rollouts, *_: rollouts)
        patch.setattr(updates, "like_lengths", as_dealt)
        plain = iteration(trainer, monkeypatch)
    assert arranged["metrics"]["padding_share"] < 0.85 * plain["metrics"]["padding_share"]
    assert arranged["places"] == plain["places"]
    first = plain["gradients"][0]
    for grads, others in zip(arranged["gradients"][:1], [first], strict=True):
        for a, b in zip(grads, others, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=2e-4)
    for name, value in plain["metrics"].items():
        if not name.startswith(("time/", "padding_share")):
            assert arranged["metrics"][name] == pytest.approx(value, rel=1e-3, abs=2e-5), name


@pytest.mark.usefixtures("uneven")
def test_the_padding_share_counts_prompts_and_responses(settings: Any) -> None:
    trainer = make_trainer(settings())
    experiences, sums = score(trainer, trainer.sample(trainer.prompts[:8]))
    found = iteration_metrics(experiences, sums, 0.05, trainer.device)["padding_share"]
    positions = tokens = 0
    for i in (0, 4):
        rows = [x for e in experiences for x in e.rollout.examples][i : i + 4]
        prompts, responses = (
            [len(x[name]) for x in rows] for name in ("prompt_ids", "response_ids")
        )
        positions += 4 * (max(prompts) + max(responses))
        tokens += sum(prompts) + sum(responses)
    assert found == pytest.approx(1 - tokens / positions, abs=1e-12)
    assert found > 0.1


def on_rank(trainer: Any, rank: int, world: int, prompts: list[Any]) -> list[Rollout]:
    """What a rank of several samples of a generation batch, seen from this process."""
    trainer.updater.world = world
    trainer.sampler = replace(trainer.sampler, rank=rank, world=world)
    return trainer.sample(prompts)


@pytest.mark.usefixtures("uneven")
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_every_pass_has_the_same_steps_on_any_number_of_ranks(
    settings: Any, accumulation: int
) -> None:
    found: dict[int, list[set[int]]] = {}
    for world in (1, 2, 4):
        size = 8 // world
        trainer = make_trainer(
            settings(
                per_device_generation_batch_size=4 * size,
                per_device_training_batch_size=size,
                gradient_accumulation_steps=accumulation,
                ppo_epochs=3,
            )
        )
        steps: list[set[int]] = [set() for _ in range(3 * 4 // accumulation)]
        for rank in range(world):
            rollouts = on_rank(trainer, rank, world, trainer.prompts[:32])
            rollouts = loop.steps_by_length(rollouts, 0, accumulation, 1, 0)
            experiences, _ = score(trainer, rollouts)
            mine = list(trainer.updater.steps(experiences, 0))
            assert len(mine) == len(steps)
            for all_ranks, step in zip(steps, mine, strict=True):
                places = [int(p) for e in step for p in e.rollout.indices]
                assert [len(e.scores) for e in step] == [size] * accumulation
                assert len(set(places)) == len(places)
                all_ranks |= set(places)
        found[world] = steps
    assert all(len(step) == 8 * accumulation for step in found[1])
    assert found[1] == found[2] == found[4]


def test_whole_groups_go_to_one_rank_and_share_their_prompt(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(settings(**GROUP, gradient_accumulation_steps=1))
    batch = [p for p in trainer.prompts[:4] for _ in range(4)]
    (whole,) = (on_rank(trainer, 0, 1, batch),)
    expected = {
        int(place): example["response_ids"]
        for r in whole
        for place, example in zip(r.indices, r.examples, strict=True)
    }
    passes: list[int] = []
    plain = policy.response_states
    monkeypatch.setattr(
        policy, "response_states", lambda *args: (passes.append(len(args[5])), plain(*args))[1]
    )
    seen: set[int] = set()
    for rank in (0, 1):
        rollouts = on_rank(trainer, rank, 2, batch)
        assert len(rollouts) == 2
        for r in rollouts:
            (group,) = {int(place) // 4 for place in r.indices}
            seen.add(group)
            for place, example in zip(r.indices, r.examples, strict=True):
                assert example["response_ids"] == expected[int(place)]
        score(trainer, rollouts)
    assert seen == {0, 1, 2, 3}
    # Policy and reference, each micro-batch's one prompt once.
    assert passes == [1] * 2 * 2 * 2


def test_the_printed_response_is_the_first_that_was_sampled(
    settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(settings(print_answers=True))
    sample, first = trainer.sample, []

    def keep(*given: Any) -> Any:
        rollouts = sample(*given)
        first.append((rollouts[0].prompts[0], rollouts[0].responses[0], rollouts[0].indices[0]))
        return rollouts

    trainer.sample = keep
    trainer.run_iteration(trainer.prompts[:8])
    prompt, response, place = first[0]
    assert place == 0
    assert prompt == trainer.prompts[0].text
    assert f"--- prompt: {prompt}\n--- response: {response}" in capsys.readouterr().out
