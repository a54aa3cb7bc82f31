"""Runs that differ in their seed only, as one group with a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dschat.evaluation.runs.reading import Run
from dschat.evaluation.runs.settings import (
    PENALTY,
    SAID_BY_THE_PENALTY,
    coefficient,
    coefficient_name,
    compared_settings,
    differing,
    labels,
    penalty_name,
)

MOST_NAMED = 8  # settings in a note


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        name: what tells it from the other groups.
        curve: what tells its settings but for the coefficient from those of the other groups: the
            regulariser, and more where that is not enough.
        coefficient: of the penalty, None where there is none or config.yaml is missing.
    """

    name: str
    runs: list[Run]
    settings: dict[str, str]
    curve: str
    coefficient: float | None


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups by their curves, in the order in which those first come, and by the coefficient."""
    members: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(sorted(compared_settings(run).items())), []).append(run)
    settings = [dict(key) for key in members]
    names = labels(settings) if len(members) > 1 else [_only_name(next(iter(members.values())))]
    without = []
    for found in members.values():
        name = coefficient_name(found[0])
        each = compared_settings(found[0])
        without.append({n: v for n, v in each.items() if n != name})
    distinct = [dict(key) for key in dict.fromkeys(tuple(sorted(w.items())) for w in without)]
    curves = dict(zip(map(_key, distinct), labels(distinct, always=[PENALTY]), strict=True))
    groups = [
        Group(name, found, each, curves[_key(rest)] or name, coefficient(found[0]))
        for name, found, each, rest in zip(names, members.values(), settings, without, strict=True)
    ]
    order = list(dict.fromkeys(group.curve for group in groups))
    return sorted(groups, key=lambda g: (order.index(g.curve), g.coefficient or 0.0))


def _key(settings: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(settings.items()))


def _only_name(runs: list[Run]) -> str:
    """A name for a group that is alone."""
    if len(runs) == 1:
        return runs[0].name
    penalty, beta = penalty_name(runs[0]), coefficient(runs[0])
    name = coefficient_name(runs[0])
    return f"{penalty}, {name} {beta:g}" if penalty and beta is not None else "all runs"


def notes_on(groups: Sequence[Group]) -> list[str]:
    """What a reader should know about the groups: seeds given twice, and what else differs."""
    notes = []
    for group in groups:
        seeds = [(run.settings or {}).get("seed") for run in group.runs]
        if len(seeds) > 1:
            again = sorted({s for s in seeds if seeds.count(s) > 1}, key=str)
            if again:
                which = ", ".join(map(str, again))
                notes.append(f"{group.name}: seed {which} occurs in more than one run")
    names = differing([g.settings for g in groups])
    common = [n for n in names if n != PENALTY and all(n in g.settings for g in groups)]
    common = [n for n in common if n not in SAID_BY_THE_PENALTY]
    hidden = [n for n in common if not all(f"{n} " in g.name for g in groups)]
    if hidden:
        more = f" and {len(hidden) - MOST_NAMED} more" if len(hidden) > MOST_NAMED else ""
        named = ", ".join(hidden[:MOST_NAMED])
        notes.append(f"the groups differ in these common settings too: {named}{more}")
    return notes
