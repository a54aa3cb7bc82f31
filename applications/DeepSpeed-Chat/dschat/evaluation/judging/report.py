"""Wins, ties and losses of model A, with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dschat.evaluation.judging.terminal import one_line
from dschat.evaluation.tables import text_table
from dschat.runtime.statistics import wilson_interval


def figures_of(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Counts, shares, intervals and p-value of all judgments, and of each category.

    Shares are of the answers that could be read. A disagreement of the two orders is a tie, and
    counted by itself too. `by_category` has the largest category first, and is empty where there
    are fewer than two.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    records = list(records)
    for record in records:
        name = record.get("category")
        groups.setdefault("(none)" if name is None else str(name), []).append(record)
    by_size = sorted(groups, key=lambda name: (-len(groups[name]), name))
    return {
        "all": _figures(records),
        "by_category": {name: _figures(groups[name]) for name in by_size if len(groups) > 1},
        "first_shown": _first_shown(records),
    }


def _first_shown(records: list[dict[str, Any]]) -> dict[str, int]:
    """How often the response that was shown first was chosen, of the answers that chose one."""
    answers = [a for r in records for a in r.get("answers") or () if a["choice"] in ("A", "B")]
    return {"chosen": sum(a["choice"] == a["first"] for a in answers), "answers": len(answers)}


def _figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    from scipy.stats import binomtest

    winners = [r["winner"] for r in records]
    counts = {"win": winners.count("A"), "tie": winners.count("Tie"), "lose": winners.count("B")}
    n = sum(counts.values())
    decided = counts["win"] + counts["lose"]
    return {
        "judged": n,
        **counts,
        "tie_by_disagreement": sum(r.get("outcome") == "disagreement" for r in records),
        "unparsable": len(records) - n,
        "shares": {k: v / n for k, v in counts.items()} if n else None,
        "intervals_95": {k: wilson_interval(v, n) for k, v in counts.items()} if n else None,
        "sign_test_p": float(binomtest(counts["win"], decided).pvalue) if decided else 1.0,
    }


def report_text(figures: dict[str, Any], disagreements: bool = False) -> str:
    """A line for all pairs and one for each category, and how often the first shown was chosen.

    Args:
        disagreements: show the ties that the two orders made by contradicting each other.
    """
    header = ["", "judged", "A wins", "tie", "B wins", "sign test p", "unparsable"]
    if disagreements:
        header.insert(4, "(orders disagree)")
    rows = []
    for name, found in [("all", figures["all"]), *figures["by_category"].items()]:
        row = [
            one_line(name),
            str(found["judged"]),
            *(_share(found, kind) for kind in ("win", "tie", "lose")),
            f"{found['sign_test_p']:.3g}" if found["win"] + found["lose"] else "-",
            str(found["unparsable"]),
        ]
        if disagreements:
            row.insert(4, str(found["tie_by_disagreement"]))
        rows.append(row)
    first = figures["first_shown"]
    return text_table(header, rows) + (
        f"\nThe response shown first was chosen in {first['chosen']} of {first['answers']} answers "
        "that chose one.\n[a, b]: 95 % interval of the share (Wilson)."
    )


def _share(found: dict[str, Any], kind: str) -> str:
    if not found["judged"]:
        return "-"
    low, high = found["intervals_95"][kind]
    return f"{found[kind]}: {found['shares'][kind]:.1%} [{low:.1%}, {high:.1%}]"
