"""Reward against drift at the end of each run: which regulariser buys more of one for the other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dschat.errors import UserError
from dschat.evaluation.runs.grouping import Group
from dschat.evaluation.runs.measures import Measure
from dschat.evaluation.runs.reading import Run

END_SHARE = 0.1
"""This share of a run's iterations, its last ones, is averaged; at least one."""

REWARD = "reward"


@dataclass(frozen=True)
class End:
    """Means over the end of a run.

    Attributes:
        left_out: iterations of the end of which reward or drift was not finite.
    """

    run: Run
    drift: float
    reward: float
    iterations: int
    left_out: int

    @property
    def step(self) -> int:
        """The last one."""
        return int(self.run.rows[-1]["step"])


@dataclass(frozen=True)
class Point:
    """A group of runs in the frontier: means over its seeds, and their standard errors.

    The errors are None of a single seed.
    """

    group: Group
    ends: list[End]
    drift: float
    reward: float
    drift_error: float | None
    reward_error: float | None


def end_of(run: Run, drift: Measure) -> End:
    """Mean reward and drift over the last tenth of the iterations.

    Raises:
        UserError: none of them has both as finite numbers.
    """
    iterations = [row for row in run.rows if REWARD in row]
    last = iterations[-max(1, math.ceil(END_SHARE * len(iterations))) :]
    pairs = []
    for row in last:
        x, y = drift.value(row), row[REWARD]
        if x is not None and y is not None:
            pairs.append((float(x), float(y)))
    if not pairs:
        raise UserError(
            f"{run.name}: none of its last {len(last)} iterations has a finite reward and a finite "
            f"{drift.name}: it has diverged. Leave it out of the picture."
        )
    xs, ys = zip(*pairs, strict=True)
    return End(run, statistics.fmean(xs), statistics.fmean(ys), len(last), len(last) - len(pairs))


def point_of(group: Group, drift: Measure) -> Point:
    """The group's place in the frontier."""
    ends = [end_of(run, drift) for run in group.runs]
    drifts, rewards = [end.drift for end in ends], [end.reward for end in ends]
    return Point(
        group,
        ends,
        statistics.fmean(drifts),
        statistics.fmean(rewards),
        _standard_error(drifts),
        _standard_error(rewards),
    )


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def frontier(groups: Sequence[Group], drift: Measure) -> dict[str, list[Point]]:
    """The points of each regulariser, in the order of the groups: the coefficient ascending."""
    curves: dict[str, list[Point]] = {}
    for group in groups:
        curves.setdefault(group.curve, []).append(point_of(group, drift))
    return curves


def notes_on_ends(curves: dict[str, list[Point]]) -> list[str]:
    """Iterations that could not be averaged."""
    return [
        f"{end.run.name}: {end.left_out} of its last {end.iterations} iterations are not finite "
        "and left out of the mean"
        for points in curves.values()
        for point in points
        for end in point.ends
        if end.left_out
    ]
