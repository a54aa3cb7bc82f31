"""The figures of programs that were run: pass@k, rewards, and how the programs ended."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dschat.runtime.statistics import pass_at_k

DIFFICULTIES = ("introductory", "interview", "competition")
FEW = 5
"""Up to so many, every k is told."""


def told_ks(responses: int) -> list[int]:
    """The k of pass@k that are told: all up to 5, then 10, 20, 50, 100 ..., and the last."""
    ks = set(range(1, min(responses, FEW) + 1)) | {responses}
    ks |= {d * 10**e for e in range(1, len(str(responses))) for d in (1, 2, 5)}
    return sorted(k for k in ks if k <= responses)


def code_figures(rows: Sequence[Mapping[str, Any]], responses: int) -> dict[str, Any]:
    """Figures of the rows of one or more problems, each with as many of them.

    Args:
        rows: of the output; those of a problem follow each other.
        responses: per problem.

    Returns:
        Means over problems of pass@k (Chen et al. 2021, arXiv 2107.03374) and reward, with the
        standard error of the mean over problems (None for one problem) behind pass@1 and the
        reward. `compile_error`, `failed` (a run-time error or time-out) and `ran` are the shares of
        programs that ended so: every program ended in one of these ways.
    """
    problems = [rows[i : i + responses] for i in range(0, len(rows), responses)]
    correct = [sum(_solves(row) for row in problem) for problem in problems]
    figures: dict[str, Any] = {"problems": len(problems), "responses": len(rows)}
    for k in told_ks(responses):
        values = [pass_at_k(responses, c, k) for c in correct]
        figures[f"pass@{k}"] = statistics.fmean(values)
        if k == 1:
            figures["pass@1_error"] = _standard_error(values)
    rewards = [statistics.fmean(row["reward"] for row in problem) for problem in problems]
    figures |= {"reward": statistics.fmean(rewards), "standard_error": _standard_error(rewards)}
    for name, share in (
        ("compile_error", {"compile_error"}),
        ("failed", {"runtime_error", "timeout"}),
    ):
        figures[name] = statistics.fmean(not share.isdisjoint(row["verdicts"]) for row in rows)
    figures["ran"] = statistics.fmean({"passed", "wrong"}.issuperset(r["verdicts"]) for r in rows)
    if "tokens" in rows[0]:
        figures["length"] = statistics.fmean(row["tokens"] for row in rows)
        figures["ended"] = statistics.fmean(row["ended"] for row in rows)
    return figures


def figures_by_difficulty(
    name: str, rows: Sequence[Mapping[str, Any]], responses: int
) -> dict[str, dict[str, Any]]:
    """Figures of all rows under `name`, and of each difficulty where there are several."""
    found = {name: code_figures(rows, responses)}
    kinds = {row["difficulty"] for row in rows}
    if len(kinds) > 1:
        known = [kind for kind in DIFFICULTIES if kind in kinds]
        for kind in [*known, *sorted(kinds.difference(known), key=str)]:
            part = [row for row in rows if row["difficulty"] == kind]
            found[str(kind or "no difficulty given")] = code_figures(part, responses)
    return found


def _solves(row: Mapping[str, Any]) -> bool:
    return all(verdict == "passed" for verdict in row["verdicts"])


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
