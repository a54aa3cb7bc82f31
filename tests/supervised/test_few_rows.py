"""Steps 1, 2 and DPO on data of a few rows, of which some cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.runtime.files import write_jsonl
from preferences import rows

Metrics = Callable[[str | Path], list[dict[str, Any]]]
BAD = {"prompt": " ", "chosen": " ", "rejected": " "}


@pytest.fixture(params=["sft", "reward", "dpo"])
def train_on(request: Any, train: Any, tmp_path: Path) -> Callable[[Path], Path]:
    """Trains on the rows of a file and gives the output folder."""

    def run(path: Path) -> Path:
        if request.param == "dpo":
            train("dpo", dataset=[str(path)], max_steps=1)
        else:
            train(request.param, data_path=[str(path)])
        return tmp_path / "out"

    return run


def test_too_few_rows_to_hold_any_out_are_trained_on(
    train_on: Any, read_metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """5 % of 8 rows are none: there is nothing to evaluate on, and training goes as ever."""
    write_jsonl(tmp_path / "few.jsonl", rows(8))
    with caplog.at_level(logging.WARNING):
        found = read_metrics(train_on(tmp_path / "few.jsonl"))
    assert "too few rows to hold 5 % out" in caplog.text
    assert found[-1]["step"] >= 1
    assert not any(name.startswith("eval_") for row in found for name in row)


def test_a_bad_row_that_is_held_out_is_skipped(
    train_on: Any, read_metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 20 rows one is held out. Wherever the bad row lies, training goes on without it."""
    from dschat.data.splits import split_indices

    _, held_out = split_indices(20, (95, 5), 1234)
    given = rows(20)
    for place in {int(held_out[0]), int(split_indices(20, (95, 5), 1)[1][0])}:
        given[place] = BAD
    write_jsonl(tmp_path / "twenty.jsonl", given)
    with caplog.at_level(logging.WARNING):
        found = read_metrics(train_on(tmp_path / "twenty.jsonl"))
    assert "none of those held out can be used" in caplog.text
    assert found[-1]["step"] >= 1
