"""Files of responses: alignment, figures, wins, ROUGE."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dschat.errors import UserError
from dschat.evaluation.comparison.figures import Figures, Measuring, figures_of
from dschat.evaluation.comparison.pairing import Aligned, align, read_aligned
from dschat.evaluation.comparison.rouge import read_references, rouge_scores
from dschat.evaluation.comparison.run import compare
from dschat.settings.comparison import COMPARE, CompareConfig
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


def aligned(tmp_path: Path, a: Rows, b: Rows, **options: Any) -> Aligned:
    files = [write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b)]
    return read_aligned(files, **options)


def test_lines_are_aligned_by_their_prompts(tmp_path: Path) -> None:
    a = [("p", "a1", 1.0), ("q", "a2", 2.0), ("p", "a3", 3.0)]
    b = [("p", "b1", 10.0), ("p", "b2", 20.0), ("q", "b3", 30.0)]
    found = aligned(tmp_path, a, b)
    assert found.column("response") == [["a1", "a2", "a3"], ["b1", "b3", "b2"]]
    assert [found.spread(i) for i in range(3)] == [9.0, 28.0, 17.0]
    assert found.largest(2) == [1, 2]
    third = write(tmp_path / "c.jsonl", [("q", "c1", 0.0), ("p", "c2", 1.0), ("x", "c3", 0.0)])
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), third]
    found = read_aligned(files, allow_unpaired=True)
    assert found.column("response") == [["a1", "a2"], ["b1", "b3"], ["c2", "c1"]]
    assert (found.unpaired, found.lines) == ([1, 1, 1], [1, 2])


def test_prompts_in_one_file_only(tmp_path: Path) -> None:
    a = [("p", "", 1.0), ("q", "", 2.0), ("p", "", 3.0)]
    b = [("r", "", 0.0), ("p", "", 0.0)]
    with pytest.raises(UserError, match="2 of 3 lines .* 1 of 2 lines .* row 2 of .*a.jsonl: 'q'"):
        aligned(tmp_path, a, b)
    found = aligned(tmp_path, a, b, allow_unpaired=True)
    assert (len(found.lines), found.unpaired) == (1, [2, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a a", "given twice"),
        ("a b --greedy", "--greedy has no effect on files"),
        ("a b --models x=y --dataset d", "either files of responses or --models"),
        ("--models x=y", "Give --dataset"),
        ("--models new --dataset d", "--models 'new': expected NAME=VALUE"),
        ("--models a=x --kinds additions= --dataset d", "--kinds 'additions='"),
        ("--models a=x --reference_models a=y --dataset d", "Two models have one name: a, a"),
        ("--models a/b=x --dataset d", "may hold no /"),
        ("--models a=x --pass_k 0 --dataset d", "--pass_k"),
        ("--models a=x --num_samples 0 --dataset d", "--num_samples 0"),
        ("--models a=x --temperature 0 --dataset d", "--temperature 0"),
        ("--models a=x --pass_k 1 --reward_model r --dataset d", "--pass_k needs right and wrong"),
        ("--models a=x --epsilon 0.1 --dataset d", "--epsilon is of the Sinkhorn divergence"),
        ("--models a=x --divergences Sinkhorn --dataset d", "measured from --reference_models"),
    ],
)
def test_refused_flags(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        COMPARE.parse(arguments.split())


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    found = aligned(tmp_path, [("p", "x\ud800y", 1.0)], [("p", "\udfff", 1.0)])
    assert found.column("response") == [["x\ufffdy"], ["\ufffd"]]


def test_names_tell_the_files_apart(tmp_path: Path) -> None:
    rows: Rows = [("p", "", 0.0)]
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    a, b = (write(tmp_path / folder / "ppo.jsonl", rows) for folder in ("x", "y"))
    assert read_aligned([a, b]).names == ["x/ppo", "y/ppo"]
    c = write(tmp_path / "y" / "dpo.jsonl", rows)
    assert read_aligned([a, c]).names == ["ppo", "dpo"]


def made(rewards: list[tuple[float, ...]], prompts: list[str] | None = None) -> Aligned:
    names = prompts or [f"p{i}" for i in range(len(rewards))]
    files = [
        [
            {"prompt": prompt, "response": f"{letter}{i}", "reward": row[side]}
            for i, (prompt, row) in enumerate(zip(names, rewards, strict=True))
        ]
        for side, letter in zip(range(len(rewards[0])), "abc", strict=False)
    ]
    return align("ABC"[: len(files)], files, "ABC"[: len(files)])


def figures(aligned: Aligned) -> Figures:
    return figures_of(aligned, Measuring(seed=3, resamples=300))


def test_figures_by_hand() -> None:
    found = figures(made([(1.0, 0.0), (2.0, 2.0), (0.0, 5.0), (3.0, 1.0)]))
    reward, variety = found.measures
    assert [e.mean for e in (*reward.of, *reward.differences)] == [1.5, 2.0, -0.5]
    assert [e.mean for e in variety.of] == [0.0, 0.0]
    (outcome,) = found.outcomes
    assert (outcome.wins.mean, outcome.ties.mean, outcome.losses.mean) == (0.5, 0.25, 0.25)
    wilson = stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert (outcome.wins.low, outcome.wins.high) == (wilson.low, wilson.high)


def test_three_models() -> None:
    found = figures(made([(1.0, 0.0, 3.0), (2.0, 2.0, 1.0)]))
    reward = found.measures[0]
    assert [e.mean for e in (*reward.of, *reward.differences)] == [1.5, 1.0, 2.0, 0.5, -0.5]
    assert [o.wins.mean for o in found.outcomes] == [0.5, 0.5]
    plain = found.as_json()
    assert plain["measures"]["reward"]["a - c"]["mean"] == -0.5
    assert plain["c"]["losses"]["share"] == 0.5


def test_a_prompt_counts_once() -> None:
    many = made([(4.0, 0.0), (4.0, 0.0), (4.0, 0.0), (1.0, 3.0)], ["p", "p", "p", "q"])
    found = figures(many)
    assert (found.prompts, found.pairs) == (2, 4)
    assert found.measures[0].differences[0].mean == 1.0  # of 4 and -2
    assert found.outcomes[0].wins.mean == 0.5
    # As wide as of the two prompts alone, not of four independent pairs.
    alone = figures(made([(4.0, 0.0), (1.0, 3.0)]))
    assert found.measures[0].differences == alone.measures[0].differences


@settings(max_examples=25, **FIXED)
@given(st.lists(st.tuples(*[st.integers(-40, 40)] * 2), min_size=1, max_size=12))
def test_swapping_the_files_negates(rewards: list[tuple[int, int]]) -> None:
    pairs = [(x / 8, y / 8) for x, y in rewards]
    one, other = figures(made([*pairs])), figures(made([(y, x) for x, y in pairs]))
    mine, theirs = one.outcomes[0], other.outcomes[0]
    assert (mine.wins, mine.ties, mine.losses) == (theirs.losses, theirs.ties, theirs.wins)
    (a,), (b,) = one.measures[0].differences, other.measures[0].differences
    assert a.mean == -b.mean
    assert one.measures[0].of[0] == other.measures[0].of[1]
    if a.low is not None:
        assert b.low is not None
        # Another quantile of a discrete distribution may round to the neighbour.
        spread = max(abs(x - y) for x, y in pairs) + 1e-9
        assert a.low == pytest.approx(-(b.high or 0), abs=0.25 * spread)


def test_the_largest_differences() -> None:
    found = made([(0.0, 1.0), (9.0, 1.0), (0.0, 8.0), (1.0, 1.0)])
    assert [found.lines[i] for i in found.largest(3)] == [2, 3, 1]
    assert found.largest(0) == []


def graded(*models: list[tuple[str, bool]], **more: Any) -> Aligned:
    """Rows with a score of right or wrong, as the tool's own responses have."""
    files = [
        [
            {
                "prompt": prompt,
                "response": "x",
                "reward": float(right),
                "scores": {"accuracy": right},
                "kinds": ["+"] if "+" in prompt else ["-"],
                "tokens": 4,
                "ended": right,
                "form": "tags" if right else None,
                **more,
            }
            for prompt, right in rows
        ]
        for rows in models
    ]
    return align("AB"[: len(files)], files, "AB"[: len(files)])


def test_figures_of_graded_responses() -> None:
    sampled = graded(
        [("1+2", True), ("1+2", False), ("5-4", True), ("5-4", True)],
        [("1+2", False), ("1+2", False), ("5-4", True), ("5-4", False)],
    )
    greedy = graded([("1+2", True), ("5-4", True)], [("1+2", False), ("5-4", True)])
    how = Measuring(1, 200, pass_k=[1, 2], kinds=["+", "-"])
    found = {m.name: m for m in figures_of(sampled, how, greedy=greedy).measures}
    means = {name: [e.mean for e in m.of] for name, m in found.items()}
    assert means == {
        "accuracy, greedy": [1.0, 0.5],
        "+": [1.0, 0.0],
        "-": [1.0, 1.0],
        "pass@1": [0.75, 0.25],
        "pass@2": [1.0, 0.5],
        "tokens": [4.0, 4.0],
        "ended": [0.75, 0.25],
        "distinct-2": [0.0, 0.0],
        "answer: tags": [1.0, 0.5],
        "answer: none": [0.0, 0.5],
    }
    wilson = stats.binomtest(1, 2).proportion_ci(method="wilson")
    low = found["accuracy, greedy"].of[1]
    assert (low.low, low.high) == (wilson.low, wilson.high)
    alone = figures_of(sampled, Measuring(1, 200)).measures[0]
    assert (alone.name, alone.share) == ("accuracy", True)  # the reward is the same number
    with pytest.raises(UserError, match="--pass_k 3: a prompt has 2 responses"):
        figures_of(sampled, Measuring(1, 200, pass_k=[3]))
    with pytest.raises(UserError, match="--pass_k needs a score"):
        figures_of(made([(1.0, 2.0)]), Measuring(1, 200, pass_k=[1]))


def one_pair(prompt: str, *responses: str) -> Aligned:
    files = [[{"prompt": prompt, "response": text, "reward": 0.0}] for text in responses]
    return align("AB", files, "AB")


def test_rouge_by_hand() -> None:
    pair = one_pair("p", "The cat sat.", "sat cat the")
    found = rouge_scores(pair, {"p": ["the cat sat down"]}, stemmer=False)
    # 3 of 3 words, 4 in the reference: 2 * 1 * 0.75 / 1.75, in any order.
    assert found["ROUGE-1"] == [[pytest.approx(6 / 7)], [pytest.approx(6 / 7)]]
    # 2 of 2 pairs of words, 3 in the reference: 2 * (2/3) / (5/3); backwards none.
    assert found["ROUGE-2"] == [[pytest.approx(4 / 5)], [0.0]]
    # The longest common subsequence: 3 words, and 1.
    assert found["ROUGE-L"] == [[pytest.approx(6 / 7)], [pytest.approx(2 / 7)]]
    best = rouge_scores(pair, {"p": ["a dog", "sat cat the"]}, stemmer=False)
    assert best["ROUGE-2"][1] == [1.0]
    stems = one_pair("p", "cats", "sitting")
    assert rouge_scores(stems, {"p": ["cat"]}, stemmer=False)["ROUGE-1"] == [[0.0], [0.0]]
    assert rouge_scores(stems, {"p": ["cat"]}, stemmer=True)["ROUGE-1"] == [[1.0], [0.0]]
    with pytest.raises(UserError, match="has no word of the letters a to z"):
        rouge_scores(pair, {"p": ["日本語"]}, stemmer=False)


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
    compare(CompareConfig(files=[a, b], output=str(output), num_shown=2))
    found = json.loads((output / "comparison.json").read_text())
    difference = found["figures"]["measures"]["reward"]["difference"]
    assert difference["mean"] == pytest.approx(sum(range(20)) / 80 - 1)
    expected = stats.bootstrap(
        ([i / 4 - 1 for i in range(20)],), np.mean, rng=np.random.default_rng(42)
    ).confidence_interval
    assert (difference["low"], difference["high"]) == pytest.approx(tuple(expected))
    assert found["settings"]["num_shown"] == 2
    text = (output / "comparison.txt").read_text()
    assert "A has the higher reward than B: 75.0%" in text
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
    assert "ROUGE-L" in done.stdout
    assert done.stderr == ""
    wrong = run_script(script, [a, b, "--references", tmp_path / "none.jsonl"])
    assert wrong.returncode == 1
    assert "error: " in wrong.stderr
    assert "Traceback" not in wrong.stderr
