"""The picture of the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dschat.evaluation.drawing import EDGE, INK, Row
from dschat.evaluation.runs.curves import curve_style
from dschat.evaluation.runs.frontier import END_SHARE, REWARD, Point
from dschat.evaluation.runs.measures import Measure
from dschat.evaluation.runs.settings import coefficient_name

FIGURE = "frontier"
MEAN, ERROR = "(mean of seeds)", "(standard error)"
LOGARITHMIC_FROM = 50.0  # times the smallest drift
LABEL_SIZE = 8.5
DARKER = 0.75  # labels than their curves
# Beside a line that rises to the right, if there is room; in points.
PLACES = ((-5, 6), (6, -13), (6, 6), (-6, -13), (-10, -4), (10, -4), (0, 11), (0, -20))


def draw_frontier(
    plt: Any, curves: Mapping[str, Sequence[Point]], drift: Measure
) -> tuple[Any, list[Row]]:
    """The figure, and every number that is in it."""
    figure, axis = plt.subplots(figsize=(7.2, 5.2), layout="constrained")
    for number, (name, points) in enumerate(curves.items()):
        _draw_curve(axis, number, name, points)
    every = [p for points in curves.values() for p in points]
    drifts = [end.drift for p in every for end in p.ends]
    if min(drifts) > 0 and max(drifts) > LOGARITHMIC_FROM * min(drifts):
        axis.set_xscale("log")
    axis.margins(0.1)
    axis.set_xlabel(drift.title, fontsize=9.5, color=INK)
    axis.set_ylabel("mean reward", fontsize=9.5, color=INK)
    axis.tick_params(labelsize=8.5)
    axis.grid(alpha=0.5, color=EDGE, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("reward against drift: up and to the left is better", fontsize=11, color=INK)
    legend = figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(4, len(curves)),
        frameon=False,
        fontsize=9,
        title=_explained(every),
        title_fontsize=8.5,
    )
    legend.get_title().set_multialignment("center")
    _label_points(figure, axis, curves)
    return figure, rows_of(curves, drift)


def _draw_curve(axis: Any, number: int, name: str, points: Sequence[Point]) -> None:
    colour, style = curve_style(number)
    ends = [end for point in points if len(point.ends) > 1 for end in point.ends]
    if ends:
        axis.scatter(
            [end.drift for end in ends],
            [end.reward for end in ends],
            s=12,
            color=colour,
            alpha=0.35,
            linewidths=0,
            label=f"_{name}, seeds",
        )
    # An error of a single seed is not known: a bar of no length would say that it is 0.
    missing = float("nan")
    axis.errorbar(
        [p.drift for p in points],
        [p.reward for p in points],
        xerr=[missing if p.drift_error is None else p.drift_error for p in points],
        yerr=[missing if p.reward_error is None else p.reward_error for p in points],
        color=colour,
        linestyle=style,
        linewidth=1.6,
        elinewidth=1.0,
        capsize=2.5,
        marker="o",
        markersize=5.5,
        label=name,
    )


def _explained(points: Sequence[Point]) -> str:
    names = {coefficient_name(run) for p in points for run in p.group.runs} - {None}
    parts = [f"means over the last {END_SHARE:.0%} of each run's iterations"]
    counts = sorted({len(p.ends) for p in points})
    if counts[-1] > 1:
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        parts.append(f"bars: ± standard error over {seeds} seeds; pale: each seed")
    text = "; ".join(parts)
    if names:
        text += f"\nnumbers at the points: {' or '.join(sorted(map(str, names)))}"
    return text


def _label_points(figure: Any, axis: Any, curves: Mapping[str, Sequence[Point]]) -> None:
    """The coefficient beside each point, where it hides no other label and no point."""
    from matplotlib.colors import to_rgb

    labelled = [
        (point, tuple(DARKER * part for part in to_rgb(curve_style(number)[0])))
        for number, points in enumerate(curves.values())
        for point in points
    ]
    figure.draw_without_rendering()
    pixels = axis.transData.transform([(p.drift, p.reward) for p, _ in labelled])
    taken: list[Any] = []
    for point, colour in labelled:
        if point.group.coefficient is None:
            continue
        best: tuple[int, Any] | None = None
        for dx, dy in PLACES:
            text = axis.annotate(
                f"{point.group.coefficient:g}",
                (point.drift, point.reward),
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                fontsize=LABEL_SIZE,
                color=colour,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )
            box = text.get_window_extent().expanded(1.05, 1.1)
            hidden = sum(box.overlaps(other) for other in taken)
            hidden += sum(bool(box.contains(*pixel)) for pixel in pixels)
            if best is None or hidden < best[0]:
                if best is not None:
                    best[1].remove()
                best = (hidden, text)
            else:
                text.remove()
            if hidden == 0:
                break
        assert best is not None
        taken.append(best[1].get_window_extent())


def rows_of(curves: Mapping[str, Sequence[Point]], drift: Measure) -> list[Row]:
    """The numbers of the figure: of each run, and of each group with several."""
    rows: list[Row] = []
    for points in curves.values():
        for point in points:
            name, last = point.group.name, max(end.step for end in point.ends)
            for end in point.ends:
                rows.append((FIGURE, name, end.run.name, end.step, drift.name, end.drift))
                rows.append((FIGURE, name, end.run.name, end.step, REWARD, end.reward))
            if point.drift_error is None or point.reward_error is None:
                continue
            rows.append((FIGURE, name, MEAN, last, drift.name, point.drift))
            rows.append((FIGURE, name, MEAN, last, REWARD, point.reward))
            rows.append((FIGURE, name, ERROR, last, drift.name, point.drift_error))
            rows.append((FIGURE, name, ERROR, last, REWARD, point.reward_error))
    return rows
