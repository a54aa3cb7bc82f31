"""The table and the picture of `multi_reference_comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dschat.evaluation.comparison_output import text_table
from dschat.evaluation.multi_reference_report import ModelReport

Rows = Sequence[Mapping[str, Any]]


def format_reports(reports: Mapping[str, ModelReport]) -> str:
    """A table of models: greedy accuracy, pass@k, divergences per response, tokens."""
    first = next(iter(reports.values()))
    header = ["model", "accuracy", *first.kinds, *(f"pass@{k}" for k in first.overall.pass_at)]
    header += [*(f"KL to {name}" for name in first.divergences), "tokens", "found by"]
    rows = []
    for name, report in reports.items():
        low, high = report.overall.interval
        rows.append(
            [
                name,
                f"{report.overall.accuracy:.1%} ({low:.1%} to {high:.1%})",
                *(f"{kind.accuracy:.1%}" for kind in report.kinds.values()),
                *(f"{value:.1%}" for value in report.overall.pass_at.values()),
                *(f"{value:.2f}" for value in report.divergences.values()),
                f"{report.overall.sampled_length:.1f}",
                report.overall.found_by_text(),
            ]
        )
    return text_table(header, rows)


def plot_reports(runs: Mapping[str, Rows], reports: Mapping[str, ModelReport], path: Path) -> None:
    """Accuracy and divergences over the steps of each run, and the table's accuracies, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(next(iter(reports.values())).divergences)
    figure, axes = plt.subplots(1, 2 + len(names), figsize=(4 * (2 + len(names)), 3.4))
    for name, rows in runs.items():
        steps, values = metric_over_steps(rows, "eval/accuracy")
        axes[0].plot(steps, values, marker="o", label=name)
        for k, axis in enumerate(axes[1:-1]):
            steps, values = metric_over_steps(rows, f"penalty/log_ratio/ref_{k}", "response_length")
            axis.plot(steps, values, label=name)
    for number, name in enumerate(names):
        style = ["--", ":", "-."][number % 3]
        axes[0].axhline(
            reports[name].overall.accuracy, color="grey", linestyle=style, linewidth=1, label=name
        )
    axes[0].set_title("greedy accuracy on the test part", fontsize=10)
    for axis, name in zip(axes[1:-1], names, strict=True):
        axis.set_title(f"log π/{name} per response (estimates KL)", fontsize=10)
        axis.axhline(0, color="grey", linewidth=0.8)
    for axis in axes[:-1]:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    _bars(axes[-1], reports)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def metric_over_steps(
    rows: Rows, key: str, factor: str | None = None
) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have the metric, multiplied by another metric."""
    found = [r for r in rows if r.get(key) is not None]
    return [r["step"] for r in found], [r[key] * (r[factor] if factor else 1) for r in found]


def _bars(axis: Any, reports: Mapping[str, ModelReport]) -> None:
    """Greedy accuracy by kind of problem, with 95 % intervals."""
    first = next(iter(reports.values()))
    kinds = list(first.kinds) or ["all"]
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        found = [r.kinds.get(kind, r.overall) for r in reports.values()]
        axis.bar(
            [i + width * (number - (len(kinds) - 1) / 2) for i in range(len(found))],
            [r.accuracy for r in found],
            width,
            label=kind,
            color=f"C{2 + number}",  # not the colours of the runs
            yerr=[
                [r.accuracy - r.interval[0] for r in found],
                [r.interval[1] - r.accuracy for r in found],
            ],
            capsize=2,
        )
    axis.set_xticks(range(len(reports)), list(reports), fontsize=8)
    axis.set_title("greedy accuracy at the end, 95 % intervals", fontsize=10)
    axis.set_ylim(0, 1.25)
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=8, loc="upper center", ncols=len(kinds))
