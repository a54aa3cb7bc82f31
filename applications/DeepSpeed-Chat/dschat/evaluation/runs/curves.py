"""Metrics over steps: a line for each group of runs, with a band over its seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dschat.evaluation.drawing import EDGE, INK, Row
from dschat.evaluation.runs.grouping import Group
from dschat.evaluation.runs.measures import Measure
from dschat.evaluation.runs.reading import Run

FIGURE = "curves"
MEAN, LOWEST, HIGHEST = "(mean of seeds)", "(lowest seed)", "(highest seed)"
SUMMARIES = (MEAN, LOWEST, HIGHEST)
COLUMNS = 3
FEW_POINTS = 12  # a line of fewer has a mark at each
TITLE_WIDTH = 46
COLOURS = 10
PALEST = 0.2  # of white and a regulariser's colour; no group is quite as pale
MOST_WITH_SEEDS = 6  # groups of which each seed has a line of its own


@dataclass(frozen=True)
class Line:
    """What is drawn of one run, or of several seeds together."""

    run: str
    steps: list[int]
    values: list[float]


def lines_of(group: Group, measure: Measure) -> list[Line]:
    """A line for each run and, for two and more, mean, lowest and highest.

    These are at the steps at which every run of the group has a finite value: where one has ended
    earlier, the rest of the others would be another mean.
    """
    courses = {run.name: measure.course(run) for run in group.runs if measure.of(run)}
    lines = [Line(name, list(course), list(course.values())) for name, course in courses.items()]
    if len(courses) < 2:
        return lines
    shared = [
        step
        for step in next(iter(courses.values()))
        if all(math.isfinite(course.get(step, math.nan)) for course in courses.values())
    ]
    columns = [[course[step] for course in courses.values()] for step in shared]
    for name, summary in ((MEAN, _mean), (LOWEST, min), (HIGHEST, max)):
        lines.append(Line(name, shared, [summary(column) for column in columns]))
    return lines


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def draw_curves(
    plt: Any, groups: Sequence[Group], measures: Sequence[Measure]
) -> tuple[Any, list[Row]]:
    """The figure, and every number that is in it."""
    columns = min(COLUMNS, len(measures))
    count = math.ceil(len(measures) / columns)
    figure, axes = plt.subplots(
        count, columns, figsize=(4.1 * columns, 2.7 * count + 0.8), layout="constrained"
    )
    flat = list(axes.flat) if len(measures) > 1 else [axes]
    rows: list[Row] = []
    styles = styles_of(groups)
    for axis, measure in zip(flat, measures, strict=False):
        for group, style in zip(groups, styles, strict=True):
            lines = lines_of(group, measure)
            if len(groups) > MOST_WITH_SEEDS and len(lines) > 1:
                lines = [line for line in lines if line.run in SUMMARIES]
            _draw(axis, style, group, lines)
            for line in lines:
                for step, value in zip(line.steps, line.values, strict=True):
                    rows.append((FIGURE, group.name, line.run, step, measure.name, value))
        axis.set_title(textwrap.fill(measure.title, TITLE_WIDTH), fontsize=9.5, color=INK)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.5, color=EDGE, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in flat[len(measures) :]:
        axis.set_visible(False)
    for axis in flat[max(0, len(measures) - columns) : len(measures)]:
        axis.set_xlabel("step", fontsize=9, color=INK)
    _legend(figure, flat[: len(measures)], groups)
    return figure, rows


def curve_style(number: int) -> tuple[str, str]:
    """Colour and line style of the regulariser with that number, the same in all figures."""
    return f"C{number % COLOURS}", ["-", "--", ":", "-."][number // COLOURS % 4]


def styles_of(groups: Sequence[Group]) -> list[tuple[Any, str]]:
    """Colour and line style of each group: the colour is paler the smaller the coefficient is."""
    from matplotlib.colors import to_rgb

    curves = list(dict.fromkeys(group.curve for group in groups))
    styles = []
    for group in groups:
        colour, style = curve_style(curves.index(group.curve))
        alike = [g for g in groups if g.curve == group.curve]
        strength = PALEST + (1 - PALEST) * (alike.index(group) + 1) / len(alike)
        mixed = tuple(1 - strength * (1 - part) for part in to_rgb(colour))
        styles.append((mixed, style))
    return styles


def _draw(axis: Any, style: tuple[Any, str], group: Group, lines: Sequence[Line]) -> None:
    colour, dashes = style
    by_name = {line.run: line for line in lines}
    mean = by_name.get(MEAN)
    for line in lines:
        if line.run in (LOWEST, HIGHEST):
            continue
        main = line is mean or mean is None
        axis.plot(
            line.steps,
            line.values,
            color=colour,
            linestyle=dashes,
            linewidth=1.7 if main else 0.7,
            alpha=1.0 if main else 0.45,
            marker="o" if len(line.steps) <= FEW_POINTS and main else None,
            markersize=3,
            label=group.name if main else f"_{line.run}",
        )
    if mean is not None and mean.steps:
        low, high = by_name[LOWEST].values, by_name[HIGHEST].values
        axis.fill_between(mean.steps, low, high, color=colour, alpha=0.16, linewidth=0)


def _legend(figure: Any, axes: Sequence[Any], groups: Sequence[Group]) -> None:
    """One for all panels, each group once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    seeds = any(len(group.runs) > 1 for group in groups)
    thin = "" if len(groups) > MOST_WITH_SEEDS else "thin: each of them; "
    explained = f"line: mean of the seeds; {thin}band: lowest to highest"
    drawn = [group for group in groups if group.name in found]
    curves = len({group.curve for group in drawn})
    figure.legend(
        [found[group.name] for group in drawn],
        [f"{g.name} ({len(g.runs)} seeds)" if len(g.runs) > 1 else g.name for g in drawn],
        loc="outside lower center",
        # Filled by columns: where it can be, one for each regulariser.
        ncols=min(4, curves if curves > 1 else len(drawn)),
        frameon=False,
        fontsize=9,
        title=explained if seeds else None,
        title_fontsize=9,
    )


def runs_that_end_early(groups: Sequence[Group]) -> list[str]:
    """A note for each run that is shorter than the longest one."""
    runs: list[Run] = [run for group in groups for run in group.runs]
    last = max(run.rows[-1]["step"] for run in runs)
    return [
        f"{run.name} ends at step {run.rows[-1]['step']}, the longest run at {last}"
        for run in runs
        if run.rows[-1]["step"] < last
    ]
