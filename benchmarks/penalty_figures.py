"""Plots of the benchmark of the penalties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw_speed(path: str, measured: dict[int, dict[str, dict[str, Any]]]) -> None:
    """Bars of CPU seconds by regulariser, one group a vocabulary."""
    names = list(next(iter(measured.values())))
    figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(names) + 1.2), layout="constrained")
    height = 0.8 / len(measured)
    for i, (vocabulary, found) in enumerate(measured.items()):
        places = [j + (i - (len(measured) - 1) / 2) * height for j in range(len(names))]
        seconds = [found[name]["cpu"] for name in names]
        bars = axes.barh(places, seconds, height, label=f"{vocabulary:,} tokens")
        axes.bar_label(bars, [f" {s:.2g} s" for s in seconds], fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("CPU seconds per batch of positions (log scale)")
    axes.margins(x=0.15)
    axes.legend()
    _save(figure, path)


def draw_scaling(path: str, measured: dict[str, dict[str, list[tuple[int, float, float]]]]) -> None:
    """Seconds and extra peak memory over each size, a line per penalty.

    Args:
        measured: by size that varies, by penalty: (size, seconds, MiB), ascending.
    """
    figure, axes = pyplot.subplots(2, len(measured), figsize=(11, 6), layout="constrained")
    for column, (varied, lines) in zip(axes.T, measured.items(), strict=True):
        for name, points in lines.items():
            sizes = [size for size, _, _ in points]
            column[0].plot(sizes, [seconds for _, seconds, _ in points], "o-", label=name)
            column[1].plot(sizes, [max(1.0, memory) for _, _, memory in points], "o-", label=name)
        for axis, label in zip(column, ("CPU seconds", "extra peak memory, MiB"), strict=True):
            axis.set(xscale="log", yscale="log", xlabel=varied)
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.minorticks_off()
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    _save(figure, path)


def draw_correlation(path: str, epsilons: list[float], lines: dict[str, list[float]]) -> None:
    """Correlation with the log-ratio over epsilon, a line per penalty."""
    figure, axis = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    for name, values in lines.items():
        axis.plot(epsilons, values, "o-", label=name)
    axis.set(xscale="log", xlabel="epsilon / mean distance of tokens", ylim=(None, 1.05))
    axis.set_ylabel("correlation of the token penalty with log(π/ρ)")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _save(figure: Any, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")
