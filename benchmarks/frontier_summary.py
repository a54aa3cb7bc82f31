"""Tables and figure of `frontier.py`: means, and differences at equal reward and equal drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MEASURES = ("proxy", "gold", "kl", "length")
EACH = tuple(f"{name}_each" for name in MEASURES)
"""Columns with a number for each prompt; the same prompts and random numbers in all runs."""

RESAMPLES = 2000
Rows = Sequence[Mapping[str, Any]]


def curve(rows: Rows, penalty: str, seed: int, prompts: Any) -> Any:
    """[settings, measures] means over `prompts` (indices), by coefficient.

    Runs without a penalty belong to every curve: they are its coefficient 0.
    """
    of = [r for r in rows if r["seed"] == seed and r["penalty"] in (penalty, "none")]
    of = sorted(of, key=lambda r: (r["penalty"] != "none", r["coefficient"]))
    return np.array([[np.asarray(r[name])[prompts].mean() for name in EACH] for r in of])


def at(points: Any, level: float, x: int, y: int) -> float:
    """Measure y where measure x is `level`: linear between the curve's neighbours in x."""
    ordered = points[np.argsort(points[:, x])]
    return float(np.interp(level, ordered[:, x], ordered[:, y]))


def shared_level(curves: Sequence[Any], x: int) -> float | None:
    """The middle of the range of x that all curves have; None if they share none."""
    low, high = max(c[:, x].min() for c in curves), min(c[:, x].max() for c in curves)
    return float((low + high) / 2) if low < high else None


def difference(
    rows: Rows, pair: Sequence[str], seeds: Sequence[int], x: str, y: str
) -> dict[str, Any] | None:
    """The first penalty's y minus the second's at the level of x that all of their curves share.

    Returns:
        level; mean over seeds; `seeds`: the 95 % t interval over seeds (infinite for one);
        `prompts`: the 95 % percentile interval of resampled prompts, seeds held fixed. None without
        a level.
    """
    i, j = MEASURES.index(x), MEASURES.index(y)
    count = len(rows[0][EACH[0]])

    def curves(prompts: Any) -> list[list[Any]]:
        return [[curve(rows, name, seed, prompts) for name in pair] for seed in seeds]

    whole = curves(np.arange(count))
    level = shared_level([c for both in whole for c in both], i)
    if level is None:
        return None

    def each(of: list[list[Any]]) -> list[float]:
        return [at(a, level, i, j) - at(b, level, i, j) for a, b in of]

    found = each(whole)
    mean, n = float(np.mean(found)), len(found)
    half = math.inf
    if n > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, n - 1) * np.std(found, ddof=1) / math.sqrt(n))
    generator = np.random.default_rng(0)
    resampled = [
        np.mean(each(curves(generator.integers(count, size=count)))) for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "level": level,
        "mean": mean,
        "seeds": (mean - half, mean + half),
        "prompts": (float(low), float(high)),
    }


def complete_seeds(rows: Rows, pair: Sequence[str]) -> list[int]:
    """Seeds in which both penalties have all settings that any seed has, and `none` has a run."""
    settings = {(r["penalty"], r["coefficient"]) for r in rows if r["penalty"] in (*pair, "none")}
    if {name for name, _ in settings} != {*pair, "none"}:
        return []
    keys = {(r["penalty"], r["coefficient"], r["seed"]) for r in rows}
    seeds = sorted({r["seed"] for r in rows})
    return [s for s in seeds if all((*setting, s) in keys for setting in settings)]


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:+.3f} to {bounds[1]:+.3f}"


def print_summary(rows: Rows, pairs: Sequence[Sequence[str]], planned: int) -> None:
    """Means by setting, then every comparison with its verdict."""
    print(f"{len(rows)} of {planned} runs.\n")
    names = (*MEASURES, "distinct_1", "distinct_2")
    print("| penalty | coefficient | seeds | " + " | ".join(names) + " |")
    print("|---" * (3 + len(names)) + "|")
    for setting in dict.fromkeys((r["penalty"], r["coefficient"]) for r in rows):
        of = [r for r in rows if (r["penalty"], r["coefficient"]) == setting]
        cells = []
        for name in names:
            values = [r[name] for r in of]
            error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
            cells.append(f"{np.mean(values):.3f}" + ("" if error is None else f" ± {error:.3f}"))
        print(f"| {setting[0]} | {setting[1]:g} | {len(of)} | " + " | ".join(cells) + " |")
    print("\n±: standard error over seeds.\n")
    print("| A − B | equal | at | of | mean | 95 %, seeds | 95 %, prompts | A better |")
    print("|---" * 8 + "|")
    for pair in pairs:
        seeds = complete_seeds(rows, pair)
        if not seeds:
            print(f"| {pair[0]} − {pair[1]} | runs are missing | | | | | | |")
            continue
        for x, y, sign in (("proxy", "gold", 1), ("proxy", "kl", -1), ("kl", "gold", 1)):
            found = difference(rows, pair, seeds, x, y)
            if found is None:
                print(f"| {pair[0]} − {pair[1]} | {x} | no shared range | {y} | | | | |")
                continue
            print(
                f"| {pair[0]} − {pair[1]} ({len(seeds)} seeds) | {x} | {found['level']:.3f} | {y} "
                f"| {found['mean']:+.3f} | {_interval(found['seeds'])} "
                f"| {_interval(found['prompts'])} | {verdict(found, sign)} |"
            )


def verdict(found: Mapping[str, Any], sign: int) -> str:
    """yes or no where both intervals are on one side of 0, else undecided.

    Args:
        sign: 1 where more is better, -1 where less is.
    """
    bounds = [sign * b for name in ("seeds", "prompts") for b in found[name]]
    if min(bounds) > 0:
        return "yes"
    return "no, worse" if max(bounds) < 0 else "undecided"


def save_figure(rows: Rows, path: Path) -> None:
    """Gold score against exact KL from the reference, one curve a penalty."""
    from dschat.evaluation.drawing import drawing, save_picture
    from dschat.evaluation.runs.frontier import frontier
    from dschat.evaluation.runs.frontier_figure import draw_frontier
    from dschat.evaluation.runs.grouping import Group
    from dschat.evaluation.runs.measures import logged
    from dschat.evaluation.runs.reading import Run

    groups = []
    for penalty, coefficient in dict.fromkeys((r["penalty"], r["coefficient"]) for r in rows):
        name = f"{penalty} {coefficient:g}"
        runs = [
            Run(
                f"{name}, seed {r['seed']}", path, [{"step": 1, "reward": r["gold"], "kl": r["kl"]}]
            )
            for r in rows
            if (r["penalty"], r["coefficient"]) == (penalty, coefficient)
        ]
        groups.append(Group(name, runs, {}, penalty, None if penalty == "none" else coefficient))
    drift = logged("kl", "KL(policy ‖ reference), nats per response, exact at every token")
    with drawing() as plt:
        figure, _ = draw_frontier(plt, frontier(groups, drift), drift)
        figure.axes[0].set_ylabel("mean gold score of held-out prompts")
        figure.axes[0].set_title("gold score against drift: up and to the left is better")
        seeds = sorted({len(g.runs) for g in groups})
        bars = f"; {seeds[0]} to {seeds[-1]} seeds, bars: ± standard error" if seeds[-1] > 1 else ""
        title = f"the policy after the last iteration{bars}\nnumbers at the points: the coefficient"
        figure.legends[0].set_title(title)
        save_picture(figure, path)
