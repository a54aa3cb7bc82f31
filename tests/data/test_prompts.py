"""Prompts for RL: ids, padding, and batches that do not depend on the number of ranks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from dschat.data.prompts import (
    PromptExample,
    build_prompts,
    collate_prompts,
    prompt_batches,
    rank_share,
)
from dschat.data.rows import encode_example
from dschat.errors import UserError

ROWS = [
    {"prompt": "Human: How do I boil an egg? Assistant:", "example": encode_example({"n": 1})},
    {"prompt": "fox " * 40, "example": "{}"},
    {"prompt": "The dog", "example": encode_example({"n": [3, None]})},
]


def test_long_prompts_are_left_out_and_counted(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prompts, n_too_long = build_prompts(ROWS, tiny_tokenizer, max_prompt_seq_len=39)
    assert n_too_long == 1
    assert "1 of 3 prompts" in caplog.text
    assert [p.text for p in prompts] == [ROWS[0]["prompt"], ROWS[2]["prompt"]]
    assert [p.example for p in prompts] == [{"n": 1}, {"n": [3, None]}]
    assert [tiny_tokenizer.decode(p.ids) for p in prompts] == [p.text for p in prompts]


def test_a_prompt_of_exactly_the_limit_stays(tiny_tokenizer: Any) -> None:
    length = len(tiny_tokenizer("The dog")["input_ids"])
    prompts, _ = build_prompts(ROWS[2:], tiny_tokenizer, length)
    assert len(prompts) == 1
    with pytest.raises(UserError, match=rf"shortest has {length}, the median {length}.*prompt_seq"):
        build_prompts(ROWS[2:], tiny_tokenizer, length - 1)


def test_no_rows_at_all(tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="None of the 0 prompts"):
        build_prompts([], tiny_tokenizer, 10)


def test_prompts_are_padded_on_the_left() -> None:
    examples = [PromptExample(ids, "", {}) for ids in ([5, 6, 7], [8])]
    input_ids, attention_mask = collate_prompts(examples, pad_token_id=0)
    assert input_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_batches_are_shuffled_by_seed_and_epoch_and_full() -> None:
    batches = prompt_batches(23, 5, seed=7, epoch=0)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    seen = [i for batch in batches for i in batch]
    assert len(set(seen)) == 20
    assert set(seen) <= set(range(23))
    assert batches == prompt_batches(23, 5, seed=7, epoch=0)
    assert batches != prompt_batches(23, 5, seed=7, epoch=1)
    assert batches != prompt_batches(23, 5, seed=8, epoch=0)


def test_too_few_prompts_for_a_batch() -> None:
    with pytest.raises(UserError, match=r"4 prompts.*takes 5.*per_device_generation_batch_size"):
        prompt_batches(4, 5, seed=0, epoch=0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_micro_batches_of_all_ranks_do_not_depend_on_the_world_size(world_size: int) -> None:
    (batch,) = prompt_batches(24, 24, seed=1, epoch=0)
    size = 8 // world_size
    shares = [rank_share(24, rank, world_size, size) for rank in range(world_size)]
    assert sorted(i for share in shares for i in share) == list(range(24))
    for j in range(3):
        micro = [share[j * size : (j + 1) * size] for share in shares]
        assert {batch[i] for part in micro for i in part} == set(batch[j * 8 : (j + 1) * 8])


def test_neighbours_of_a_micro_batch_go_to_one_rank() -> None:
    # Two ranks, groups of 4, micro-batches of 4: the even groups are rank 0's.
    assert rank_share(16, 0, 2, 4) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert rank_share(16, 1, 2, 4) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"12 items .* micro-batches of 4 on each of 2 ranks"):
        rank_share(12, 0, 2, 4)
