"""Samples of responses."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dschat.evaluation.judging.sampling import draw_sample, sample_from_dataset
from dschat.settings.judging import SampleConfig
from judge_server import post, write_responses

SUBREDDITS = ["a"] * 40 + ["b"] * 30 + ["c"] * 3
ROWS = [{"prompt": post(i, s), "response": f"{s} {i}"} for i, s in enumerate(SUBREDDITS)]


def categories(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(row["response"][0] for row in rows)


def test_two_models_get_the_same_prompts() -> None:
    other = [{**row, "response": "another"} for row in ROWS]
    random.Random(0).shuffle(other)
    one = [row["prompt"] for row in draw_sample(ROWS, 20, seed=42, per_category=5)]
    two = [row["prompt"] for row in draw_sample(other, 20, seed=42, per_category=5)]
    assert one == two
    assert one != [row["prompt"] for row in draw_sample(ROWS, 20, seed=43, per_category=5)]


def test_subreddits_are_capped_before_the_sample_is_drawn() -> None:
    assert categories(draw_sample(ROWS, 50, 42, per_category=5)) == {"a": 5, "b": 5, "c": 3}
    assert categories(draw_sample(ROWS, 50, 42, per_category=20)) == {"a": 20, "b": 20, "c": 3}
    assert len(draw_sample(ROWS, 7, 42, per_category=5)) == 7
    assert len(draw_sample(ROWS, 50, 42)) == 50


def test_every_row_has_the_same_chance() -> None:
    rows = [{"prompt": str(i), "response": ""} for i in range(10)]
    drawn = Counter(r["prompt"] for seed in range(2000) for r in draw_sample(rows, 3, seed))
    # 2000 x 3 / 10 = 600 each; the standard deviation is sqrt(2000 x 0.3 x 0.7) = 20.5.
    assert all(abs(drawn[str(i)] - 600) < 4.5 * 20.5 for i in range(10))


def test_a_row_is_drawn_once_and_repeats_are_rows_of_their_own() -> None:
    rows = [{"prompt": "same", "response": str(i)} for i in range(6)]
    assert {r["response"] for r in draw_sample(rows, 6, seed=1)} == set("012345")


def test_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write_responses(
        tmp_path / "a.jsonl", [(post(i, s), f"{s} é", float(i)) for i, s in enumerate(SUBREDDITS)]
    )
    target = tmp_path / "new" / "sampled.jsonl"
    config = SampleConfig(str(source), str(target), "summarize")
    config.validate()
    sample_from_dataset(config)
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    originals = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 13
    assert all(row in originals for row in rows)
    out = capsys.readouterr().out
    assert "13 of 73 lines" in out
    assert "Fewer than --num_sample 50: at most 5 of one subreddit" in out
    assert "r/a 5, r/b 5, r/c 3" in out or "r/b 5, r/a 5, r/c 3" in out
    # Dialogues have no subreddits to spread over.
    sample_from_dataset(SampleConfig(str(source), str(target), "hh-rlhf"))
    assert len(target.read_text().splitlines()) == 50
