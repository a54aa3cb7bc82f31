"""Two files of responses: pairs, intervals, wins, ROUGE."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dschat.errors import UserError
from dschat.evaluation.responses.compare import compare
from dschat.evaluation.responses.figures import Figures, figures_of, largest
from dschat.evaluation.responses.pairing import Pair, Paired, read_paired
from dschat.evaluation.responses.rouge import read_references, rouge_scores
from dschat.settings.responses import COMPARE, CompareConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import ROOT, run_script
from property_settings import FIXED
from scipy import stats

Rows = list[tuple[str, str, float]]


def write(path: Path, rows: Rows) -> str:
    lines = [json.dumps({"prompt": p, "response": r, "reward": x}) + "\n" for p, r, x in rows]
    path.write_text("".join(lines))
    return str(path)


def paired(tmp_path: Path, a: Rows, b: Rows, **options: Any) -> Paired:
    return read_paired(write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b), **options)


def test_lines_are_paired_by_their_prompts(tmp_path: Path) -> None:
    a = [("p", "a1", 1.0), ("q", "a2", 2.0), ("p", "a3", 3.0)]
    b = [("p", "b1", 10.0), ("p", "b2", 20.0), ("q", "b3", 30.0)]
    found = paired(tmp_path, a, b).pairs
    assert [pair.responses for pair in found] == [("a1", "b1"), ("a2", "b3"), ("a3", "b2")]
    assert [pair.difference for pair in found] == [-9.0, -28.0, -17.0]


def test_prompts_in_one_file_only(tmp_path: Path) -> None:
    a = [("p", "", 1.0), ("q", "", 2.0), ("p", "", 3.0)]
    b = [("r", "", 0.0), ("p", "", 0.0)]
    with pytest.raises(UserError, match="2 of 3 lines .* 1 of 2 lines .* row 2 of .*a.jsonl: 'q'"):
        paired(tmp_path, a, b)
    found = paired(tmp_path, a, b, allow_unpaired=True)
    assert (len(found.pairs), found.unpaired) == (1, (2, 1))
    with pytest.raises(UserError, match="no prompt in common"):
        paired(tmp_path, a, [("x", "", 0.0)], allow_unpaired=True)


def test_files_that_cannot_be_compared(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", [("p", "r", 1.0)])
    bare = tmp_path / "b.jsonl"
    bare.write_text('{"prompt": "p", "response": "r"}\n')
    with pytest.raises(UserError, match="row 1 has no reward"):
        read_paired(good, str(bare))
    with pytest.raises(UserError, match="1 files are given; expected two"):
        COMPARE.parse([good])
    with pytest.raises(UserError, match="given twice"):
        COMPARE.parse([good, good])
    for arguments in (["--allow_unpaired", "a", "b"], ["--allow-unpaired", "true", "a", "b"]):
        config = COMPARE.parse([*arguments, "--seed", "3"])
        assert (config.files, config.allow_unpaired, config.seed) == (["a", "b"], True, 3)
    with pytest.raises(UserError, match="--stemmer is of ROUGE"):
        COMPARE.parse([good, "b", "--stemmer"])


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    found = paired(tmp_path, [("p", "x\ud800y", 1.0)], [("p", "\udfff", 1.0)])
    assert found.pairs[0].responses == ("x\ufffdy", "\ufffd")


def test_names_tell_the_files_apart(tmp_path: Path) -> None:
    rows: Rows = [("p", "", 0.0)]
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    a, b = (write(tmp_path / folder / "ppo.jsonl", rows) for folder in ("x", "y"))
    assert read_paired(a, b).names == ("x/ppo", "y/ppo")
    c = write(tmp_path / "y" / "dpo.jsonl", rows)
    assert read_paired(a, c).names == ("ppo", "dpo")


def made(rewards: list[tuple[float, float]], prompts: list[str] | None = None) -> list[Pair]:
    names = prompts or [f"p{i}" for i in range(len(rewards))]
    return [
        Pair(i + 1, prompt, (f"a{i}", f"b{i}"), pair)
        for i, (prompt, pair) in enumerate(zip(names, rewards, strict=True))
    ]


def figures(pairs: list[Pair]) -> Figures:
    return figures_of(pairs, (0, 0), {}, seed=3, resamples=300)


def test_figures_by_hand() -> None:
    found = figures(made([(1.0, 0.0), (2.0, 2.0), (0.0, 5.0), (3.0, 1.0)]))
    (reward,) = found.measures
    assert (reward.a.mean, reward.b.mean, reward.difference.mean) == (1.5, 2.0, -0.5)
    assert (found.wins.share, found.ties.share, found.losses.share) == (0.5, 0.25, 0.25)
    wilson = stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert (found.wins.low, found.wins.high) == pytest.approx((wilson.low, wilson.high))


def test_a_prompt_counts_once() -> None:
    many = made([(4.0, 0.0), (4.0, 0.0), (4.0, 0.0), (1.0, 3.0)], ["p", "p", "p", "q"])
    found = figures(many)
    assert (found.prompts, found.pairs) == (2, 4)
    assert found.measures[0].difference.mean == 1.0  # of 4 and -2
    assert found.wins.share == 0.5
    # As wide as of the two prompts alone, not of four independent pairs.
    alone = figures(made([(4.0, 0.0), (1.0, 3.0)]))
    assert found.measures[0].difference == alone.measures[0].difference


@settings(max_examples=25, **FIXED)
@given(st.lists(st.tuples(*[st.integers(-40, 40)] * 2), min_size=1, max_size=12))
def test_swapping_the_files_negates(rewards: list[tuple[int, int]]) -> None:
    pairs = [(x / 8, y / 8) for x, y in rewards]
    one, other = figures(made(pairs)), figures(made([(y, x) for x, y in pairs]))
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    a, b = one.measures[0].difference, other.measures[0].difference
    assert a.mean == -b.mean
    assert one.measures[0].a == other.measures[0].b
    if a.low is not None:
        assert b.low is not None
        # Another quantile of a discrete distribution may round to the neighbour.
        spread = max(abs(x - y) for x, y in pairs) + 1e-9
        assert a.low == pytest.approx(-(b.high or 0), abs=0.25 * spread)


def test_the_largest_differences() -> None:
    pairs = made([(0.0, 1.0), (9.0, 1.0), (0.0, 8.0), (1.0, 1.0)])
    assert [pair.line for pair in largest(pairs, 3)] == [2, 3, 1]
    assert largest(pairs, 0) == []


def test_rouge_by_hand() -> None:
    pairs = [Pair(1, "p", ("The cat sat.", "sat cat the"), (0.0, 0.0))]
    found = rouge_scores(pairs, {"p": ["the cat sat down"]}, stemmer=False)
    # 3 of 3 words, 4 in the reference: 2 * 1 * 0.75 / 1.75, in any order.
    assert found["ROUGE-1"] == ([pytest.approx(6 / 7)], [pytest.approx(6 / 7)])
    # 2 of 2 pairs of words, 3 in the reference: 2 * (2/3) / (5/3); backwards none.
    assert found["ROUGE-2"] == ([pytest.approx(4 / 5)], [0.0])
    # The longest common subsequence: 3 words, and 1.
    assert found["ROUGE-L"] == ([pytest.approx(6 / 7)], [pytest.approx(2 / 7)])
    best = rouge_scores(pairs, {"p": ["a dog", "sat cat the"]}, stemmer=False)
    assert best["ROUGE-2"][1] == [1.0]
    stems = [Pair(1, "p", ("cats", "sitting"), (0.0, 0.0))]
    assert rouge_scores(stems, {"p": ["cat"]}, stemmer=False)["ROUGE-1"] == ([0.0], [0.0])
    assert rouge_scores(stems, {"p": ["cat"]}, stemmer=True)["ROUGE-1"] == ([1.0], [0.0])
    with pytest.raises(UserError, match="has no word of the letters a to z"):
        rouge_scores(pairs, {"p": ["日本語"]}, stemmer=False)


def test_references_are_matched_by_prompt(tmp_path: Path) -> None:
    pairs = made([(0.0, 0.0), (0.0, 0.0)])
    path = tmp_path / "refs.jsonl"

    def references(*rows: dict[str, Any]) -> Any:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_references(str(path), pairs)

    one = {"prompt": "p1", "reference": "x"}
    found = references(one, {"prompt": "p0", "chosen": "y"}, one, {"prompt": "p0", "response": "z"})
    assert found == {"p0": ["y", "z"], "p1": ["x"]}
    with pytest.raises(UserError, match="1 of 2 prompts have no reference there; .* row 1: 'p0'"):
        references(one)
    with pytest.raises(UserError, match="row 2: expected texts as 'prompt' and as one of"):
        references(one, {"prompt": "p0", "summary": "y"})


def test_references_of_a_data_set(tmp_path: Path) -> None:
    for part, numbers in (("train", (0, 1, 2)), ("test", (3, 4))):
        rows = [{"prompt": f"p{i}", "chosen": f" good {i}", "rejected": " bad"} for i in numbers]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{part}.jsonl").write_text(text)
    pairs = made([(0.0, 0.0), (0.0, 0.0)], ["p3", "p0"])
    assert read_references(str(tmp_path), pairs) == {"p3": [" good 3"], "p0": [" good 0"]}
    with pytest.raises(UserError, match="1 of 1 prompts have no reference"):
        read_references(str(tmp_path), made([(0.0, 0.0)], ["elsewhere"]))


def test_what_is_written(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [(f"p{i}", f"good {i}", i / 4) for i in range(20)])
    b = write(tmp_path / "b.jsonl", [(f"p{i}", f"bad {i}", 1.0) for i in range(20)])
    output = tmp_path / "out"
    compare(CompareConfig([a, b], str(output), num_shown=2))
    found = json.loads((output / "comparison.json").read_text())
    difference = found["figures"]["measures"]["reward"]["difference"]
    assert difference["mean"] == pytest.approx(sum(range(20)) / 80 - 1)
    expected = stats.bootstrap(
        ([i / 4 - 1 for i in range(20)],), np.mean, rng=np.random.default_rng(42)
    ).confidence_interval
    assert (difference["low"], difference["high"]) == pytest.approx(tuple(expected))
    assert found["settings"]["num_shown"] == 2
    text = (output / "comparison.txt").read_text()
    assert "A has the higher reward: 75.0%" in text
    assert f"1. A - B = {19 / 4 - 1:+.4g}" in text
    # The two responses stand side by side.
    assert any("good 19" in line and "bad 19" in line for line in text.splitlines())
    assert "good 17" not in text
    assert math.isclose(found["figures"]["ties"]["share"], 0.05)


@pytest.mark.slow
def test_the_script(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [(f"p{i}", f"a cat {i}", float(i)) for i in range(9)])
    b = write(tmp_path / "b.jsonl", [(f"p{i}", f"a dog {i}", 4.0) for i in range(9)])
    script = ROOT / "evaluation" / "compare.py"
    done = run_script(script, [a, b, "--output", tmp_path / "out", "--references", a])
    assert done.returncode == 0, done.stderr
    assert "ROUGE-L  1 [1, 1]" in done.stdout
    assert done.stderr == ""
    wrong = run_script(script, [a, b, "--references", tmp_path / "none.jsonl"])
    assert wrong.returncode == 1
    assert "error: " in wrong.stderr
    assert "Traceback" not in wrong.stderr
