"""Our own decoding against transformers' `generate`: the same tokens, in fewer passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dschat.models.key_values import has_plain_cache
from dschat.rollout import generation
from dschat.rollout.decoding import _passes
from dschat.rollout.generation import generate, uniform_numbers
from small_models import SMALL, VOCABULARY, padded, request_for, small_model

LIMIT = 90


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Ten prompts of 1 to 30 tokens, some of them alike, padded on the left."""
    draw = torch.Generator().manual_seed(1)
    lengths = [3, 30, 7, 7, 1, 24]
    own = [torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in lengths]
    own[3] = [own[3][0], *own[2][1:]]
    chosen = [own[i] for i in (0, 1, 1, 2, 3, 1, 4, 0, 5, 5)]
    return padded(chosen)


@pytest.mark.parametrize("kind", list(SMALL))
@pytest.mark.parametrize("greedy", [False, True])
def test_the_tokens_are_those_of_transformers(kind: str, greedy: bool, monkeypatch: Any) -> None:
    model = small_model(kind)
    assert has_plain_cache(model) == (kind != "mistral")
    rows = prompts()
    uniform = None if greedy else uniform_numbers(len(rows[0]), LIMIT, seed=0, step=0)
    found = generate(model, request_for(rows, uniform, LIMIT))
    monkeypatch.setattr(generation, "has_plain_cache", lambda _: False)
    expected = generate(model, request_for(rows, uniform, LIMIT))
    assert found == expected
    if not greedy:
        assert len({len(r) for r in found}) > 1, "responses should end at different lengths"


def test_a_shared_prompt_goes_through_the_model_once_and_ended_rows_leave() -> None:
    model = small_model("llama")
    ids, mask = prompts()
    prefill: list[tuple[int, int]] = []
    steps: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rows, width = kwargs["input_ids"].shape
        if kwargs["past_key_values"].get_seq_length() == 0:
            prefill.append((rows, width))
        else:
            steps.append(rows)

    model.model.register_forward_pre_hook(note, with_kwargs=True)
    uniform = uniform_numbers(len(ids), LIMIT, seed=0, step=0)
    responses = generate(model, request_for((ids, mask), uniform, LIMIT))
    assert sum(rows for rows, _ in prefill) == 6
    assert sum(rows * width for rows, width in prefill) < 1.25 * (3 + 30 + 7 + 7 + 1 + 24)
    at_work = [sum(len(r) > t for r in responses) for t in range(1, max(map(len, responses)))]
    # A row may stay for a few steps after its end, never more than one in eight.
    assert steps == pytest.approx(at_work, abs=len(ids) / 8)


def test_prompts_of_one_length_take_one_pass_and_padding_is_bounded() -> None:
    assert _passes([5, 5, 5]) == [([0, 1, 2], 5)]
    lengths = [30, 31, 120, 5, 119, 60, 64, 33]
    passes = _passes(lengths)
    assert sorted(i for members, _ in passes for i in members) == list(range(8))
    for members, width in passes:
        own = [lengths[i] for i in members]
        assert width == max(own)
        assert sum(own) >= 0.8 * len(own) * width


@pytest.mark.parametrize(
    ("parameters", "plain"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, True),
        ({"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}, True),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, False),
        ({"rope_type": "longrope", "rope_theta": 1e4}, False),
        ({"full_attention": {"rope_type": "longrope", "rope_theta": 1e4}}, False),
    ],
)
def test_angles_that_change_with_the_length_are_left_to_transformers(
    parameters: dict[str, Any], plain: bool
) -> None:
    model = small_model("llama")
    model.config.rope_parameters = parameters
    assert has_plain_cache(model) == plain
