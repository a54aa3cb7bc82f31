"""The figures of a comparison as bars."""

from __future__ import annotations

import math
from pathlib import Path

from dschat.evaluation.comparison.figures import Figures
from dschat.evaluation.drawing import EDGE, INK, drawing, save_picture

MOST = 9
COLUMNS = 3


def draw(figures: Figures, path: Path) -> None:
    """A panel for each of the first measures, a bar for each model, with 95 % intervals."""
    measures = figures.measures[:MOST]
    rows, columns = math.ceil(len(measures) / COLUMNS), min(COLUMNS, len(measures))
    with drawing() as plt:
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.1 * columns, 2.9 * rows), layout="constrained", squeeze=False
        )
        for axis, measure in zip(axes.flat, measures, strict=False):
            for number, estimate in enumerate(measure.of):
                bar = axis.bar(number, estimate.mean, 0.6, color=f"C{number}")
                if estimate.low is not None and estimate.high is not None:
                    ends = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
                    axis.errorbar(number, estimate.mean, ends, color=INK, capsize=4, linewidth=1)
                shown = f"{estimate.mean:.1%}" if measure.share else f"{estimate.mean:.3g}"
                axis.bar_label(bar, [shown], label_type="center", fontsize=8, color="white")
            axis.set_xticks(range(len(figures.names)), figures.names, fontsize=8)
            axis.set_title(measure.name, fontsize=10, color=INK)
            axis.set_axisbelow(True)
            axis.grid(alpha=0.5, axis="y", color=EDGE, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes.flat[len(measures) :]:
            axis.set_visible(False)
        save_picture(figure, path)
