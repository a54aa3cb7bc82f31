"""The table, the samples and the picture of `run_comparison`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dschat.errors import UserError
from dschat.runtime.files import read_jsonl

if TYPE_CHECKING:  # it imports torch, which a table of judgments does not need
    from dschat.evaluation.policies import PolicyReport


def format_table(reports: dict[str, PolicyReport]) -> str:
    """A table of policies: rewards, divergences per response, lengths, variety."""
    divergences = list(next(iter(reports.values())).divergences)
    header = ["policy", "reward", *divergences, "length", "ended", "distinct-2"]
    rows = [
        [
            name,
            f"{r.reward:.3f} ± {r.reward_error:.3f}",
            *(f"{r.divergences[d]:.3f}" for d in divergences),
            f"{r.length:.1f}",
            f"{r.ended:.0%}",
            f"{r.distinct_2:.3f}",
        ]
        for name, r in reports.items()
    ]
    return text_table(header, rows)


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of equal width, a line under their names, an empty line before and after."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    head = "  ".join(cell.ljust(w) for cell, w in zip(header, widths, strict=True))
    return "\n".join(["", head, "-" * len(head), *lines, ""])


def format_samples(prompts: list[str], reports: dict[str, PolicyReport], count: int) -> str:
    """The first prompts with every policy's response and its reward."""
    parts = []
    for i in range(min(count, len(prompts))):
        parts.append(f"--- prompt {i + 1}\n{prompts[i].strip()}")
        width = max(map(len, reports))
        parts += [
            f"  {name.ljust(width)} [{r.rewards[i]:+.2f}] {r.responses[i].strip()}"
            for name, r in reports.items()
        ]
        parts.append("")
    return "\n".join(parts)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """A run's metrics.jsonl."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} has no metrics.jsonl; give the --output_dir of a run.")
    return read_jsonl(path)


def plot_runs(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Reward, log-ratio and each run's own divergence over iterations, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("reward", "mean reward"),
        ("log_ratio", "log π/ρ per token (estimates KL)"),
        ("divergence", "the run's own divergence per token"),
        ("response_length", "tokens per response"),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2))
    for axis, (key, title) in zip(axes, panels, strict=True):
        for name, rows in runs.items():
            axis.plot([r["iteration"] for r in rows], [r[key] for r in rows], label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
    if runs:
        axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
