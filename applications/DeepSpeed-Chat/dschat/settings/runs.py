"""The settings of `plot_runs.py`."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import flag, require


@dataclass
class PlotConfig:
    """Which runs to draw, and where to."""

    runs: list[str] = flag(
        [],
        "Folders of runs (their --output_dir); the flag itself may be left out. Required.",
    )
    output: str = flag(
        "plots", "Folder for curves.png, frontier.png and their numbers as .csv; made if need be."
    )
    divergence: str | None = flag(
        None,
        "Horizontal axis of the frontier. kl: KL from the reference, exact at every token; "
        "kl_sampled: the log-ratio of the sampled responses, an unbiased estimate of the same; "
        "own: what each run was held by, if that is the same for all; or the name of a metric. "
        "Unset: kl where all runs log it, else kl_sampled.",
    )

    def validate(self) -> None:
        """Refuse what is missing; raises `UserError`."""
        require(
            bool(self.runs),
            "Give one or more folders of runs: plot_runs.py RUN ... [--output FOLDER].",
        )
