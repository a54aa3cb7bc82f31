"""Plot of the benchmark of a step's growth."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw_scaling(path: str, measured: dict[str, dict[str, list[tuple[int, float]]]]) -> None:
    """Seconds by phase and extra peak memory over each size.

    Args:
        measured: by what varies, by phase or "extra peak MiB": (size, value), ascending.
    """
    figure, axes = pyplot.subplots(2, len(measured), figsize=(13, 6), layout="constrained")
    for (above, below), (varied, lines) in zip(axes.T, measured.items(), strict=True):
        for name, points in lines.items():
            sizes, values = zip(*points, strict=True)
            (below if "MiB" in name else above).plot(sizes, values, "o-", label=name)
        first = points[0][0], max(value[0][1] for n, value in lines.items() if "MiB" not in n)
        line = [first[1] * size / first[0] for size in sizes]
        above.plot(sizes, line, "k:", linewidth=1, label="in proportion")
        above.set(title=varied, ylabel="seconds (CPU)")
        below.set(ylabel="extra peak memory, MiB", xlabel=varied.split(",")[0])
        for axis in (above, below):
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")
