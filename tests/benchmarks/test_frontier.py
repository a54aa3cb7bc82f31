"""The frontier's driver and its comparison of penalties, on numbers made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frontier import Driver, alone, read_rows, rows_text, runs_of
from frontier_summary import complete_seeds, difference, print_summary, save_figure, verdict

PROMPTS = 20
PLAN: dict[str, Any] = {
    "seeds": [1, 2],
    "prepare": {"base": "python -c \"open(r'{out}/base', 'a').write('x')\""},
    "penalties": {
        "none": {"flags": "", "coefficients": [0]},
        "KL": {"flags": "{coefficient}", "coefficients": [0.5, 2]},
    },
    "train": "python -c \"import os; os.makedirs(r'{run}/train', exist_ok=True)\"",
    "measure": "python {root}/fake.py {run} {seed}",
    "compare": [["KL", "none"]],
}
FAKE = """
import json, os, sys
run, seed = sys.argv[1], int(sys.argv[2])
if seed == 2 and "KL-2" in run and not os.path.exists(run + "/again"):
    open(run + "/again", "w").close()
    sys.exit("no space left")
os.makedirs(run + "/measured", exist_ok=True)
with open(run + "/measured/policy.jsonl", "w") as file:
    for i in range(3):
        row = {"prompt": "p", "response": "a b a", "reward": seed + i, "tokens": 3, "ended": True,
               "scores": {"gold score": 0.5 * i}, "divergences": {"KL to reference": 0.25}}
        print(json.dumps(row), file=file)
"""


def row(penalty: str, coefficient: float, seed: int, **of: float) -> dict[str, Any]:
    """A run: constants, or with `spread` a number that differs from prompt to prompt."""
    noise = of.pop("spread", 0.0) * np.random.default_rng(seed).standard_normal(PROMPTS)
    found: dict[str, Any] = {"penalty": penalty, "coefficient": coefficient, "seed": seed}
    for name in ("proxy", "gold", "kl", "length"):
        each = of[name] + (noise if name == "gold" else 0)
        found |= {f"{name}_each": list(np.broadcast_to(each, PROMPTS)), name: float(np.mean(each))}
    return found | {"distinct_1": 0.5, "distinct_2": 0.7, "seconds": 1.0}


def straight(advantage: list[float], spread: float = 0.0) -> list[dict[str, Any]]:
    """gold = 4 - KL / 2, proxy = 2 + KL for B; A's gold is higher by advantage[seed]."""
    rows = []
    for seed, more in enumerate(advantage, start=1):
        top = {"proxy": 8.0, "gold": 1.0, "kl": 6.0, "length": 9.0}
        rows.append(row("none", 0, seed, **top))
        for name, kls, plus in (("A", (1.0, 3.0), more), ("B", (0.5, 2.0, 4.0), 0.0)):
            for kl in kls:
                gold = 4 - kl / 2 + plus
                point = {"proxy": 2 + kl, "gold": gold, "kl": kl, "length": 9.0}
                rows.append(row(name, 1 / kl, seed, spread=spread, **point))
    return rows


def test_the_difference_at_an_equal_level_is_the_lines_own() -> None:
    rows = straight([0.4, 0.6, 0.5])
    found = difference(rows, ("A", "B"), [1, 2, 3], "proxy", "gold")
    assert found is not None
    # Both have proxy 3 to 8: the middle lies between A's KL 3 and the run without a penalty, where
    # KL is 3.5 and A's advantage has fallen to 5 sixths.
    assert found["level"] == pytest.approx(5.5)
    assert found["mean"] == pytest.approx(0.5 * 5 / 6)
    half = 4.302653 * np.std([0.4, 0.6, 0.5], ddof=1) * 5 / 6 / np.sqrt(3)
    assert found["seeds"] == pytest.approx((0.5 * 5 / 6 - half, 0.5 * 5 / 6 + half))
    assert found["prompts"] == pytest.approx((0.5 * 5 / 6, 0.5 * 5 / 6))  # no prompt differs
    drift = difference(rows, ("A", "B"), [1, 2, 3], "proxy", "kl")
    assert drift is not None
    assert drift["mean"] == pytest.approx(0)
    assert difference(rows, ("A", "B"), [1], "proxy", "gold")["seeds"][1] == np.inf  # type: ignore


def test_prompts_are_paired_and_resampled() -> None:
    # The same spread over prompts in both: none is left in the difference but near the end point,
    # which has no spread.
    rows = straight([0.5, 0.5], spread=3.0)
    a = difference(rows, ("A", "B"), [1, 2], "kl", "gold")
    alone = difference(rows, ("A", "none"), [1, 2], "kl", "gold")
    assert a is not None
    assert alone is None  # the run without a penalty is a point: no range
    low, high = a["prompts"]
    assert 0 < high - low < 0.25 * 3.0


@pytest.mark.parametrize(
    ("seeds", "prompts", "sign", "said"),
    [
        ((0.1, 0.2), (0.05, 0.3), 1, "yes"),
        ((0.1, 0.2), (0.05, 0.3), -1, "no, worse"),
        ((0.1, 0.2), (-0.05, 0.3), 1, "undecided"),
        ((-np.inf, np.inf), (0.05, 0.3), 1, "undecided"),
    ],
)
def test_a_verdict_needs_both_intervals(seeds, prompts, sign: int, said: str) -> None:
    assert verdict({"seeds": seeds, "prompts": prompts}, sign) == said


def test_only_seeds_with_all_settings_are_compared() -> None:
    rows = straight([0.5, 0.5])
    assert complete_seeds(rows, ("A", "B")) == [1, 2]
    assert complete_seeds(rows[:-1], ("A", "B")) == [1]
    assert complete_seeds(rows, ("A", "C")) == []


def test_summary_and_figure(tmp_path: Path, capsys: Any) -> None:
    rows = straight([0.4, 0.6, 0.5])
    print_summary(rows, [["A", "B"], ["A", "C"]], 30)
    out = capsys.readouterr().out
    assert "18 of 30 runs." in out
    assert "| A − B (3 seeds) | proxy | 5.500 | gold | +0.417 | +0.210 to +0.624 |" in out
    assert "| A − C | runs are missing |" in out
    save_figure(rows, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr("frontier.ROOT", tmp_path)
    return json.loads(json.dumps(PLAN))


def test_a_plan_is_carried_out_and_resumed(plan: dict[str, Any], tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out"
    out.mkdir()
    first = Driver(plan, out, rows)
    first.all(2)
    assert first.failed == 1
    assert len(read_rows(rows)) == 5
    assert (out / "base").read_text() == "x"
    second = Driver(plan, out, rows)
    second.all(1)
    assert second.failed == 0
    assert (out / "base").read_text() == "x"  # not prepared again
    found = read_rows(rows)
    assert {(r["penalty"], r["coefficient"], r["seed"]) for r in found} == {
        r.key for r in runs_of(plan)
    }
    last = found[-1]
    assert (last["penalty"], last["coefficient"], last["seed"]) == ("KL", 2, 2)
    assert last["proxy_each"] == [2, 3, 4]
    assert (last["proxy"], last["gold"], last["kl"], last["length"]) == (3, 0.5, 0.25, 3)
    assert rows_text(found) == rows.read_text()
    assert not list((out / "runs").glob("*/train"))


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(SystemExit, match="another driver works in"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass
