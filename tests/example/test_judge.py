"""The gold score of a comparison's responses."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.example.judge import gold_scores, main
from dschat.example.posts import draw_post
from dschat.example.summaries import best_score, gold_score


def test_means_by_policy_and_the_best_possible(tmp_path: Path) -> None:
    posts = [draw_post(random.Random(i)) for i in range(3)]
    path = tmp_path / "comparison.json"
    responses = [" my mother is happy.", " nothing", ""]
    result = {
        "prompts": [p.prompt for p in posts],
        "policies": {"A": {"responses": responses}, "B": {"responses": ["", "", ""]}},
    }
    path.write_text(json.dumps(result))
    scores = gold_scores(path)
    expected = [gold_score(p.facts, r) for p, r in zip(posts, responses, strict=True)]
    assert scores["A"] == pytest.approx(sum(expected) / 3)
    assert scores["B"] == pytest.approx(-0.5)  # nothing covered, no full stop
    assert scores["best possible"] == pytest.approx(sum(best_score(p.facts) for p in posts) / 3)


def test_a_file_that_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="comparison.json"):
        gold_scores(tmp_path / "none.json")
    assert main([]) == 1
