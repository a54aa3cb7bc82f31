"""Draw training runs: rewards, divergences, lengths and losses, and reward against drift."""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.runs import PlotConfig

COMMAND_LINE = CommandLine(PlotConfig, positional="runs")


def main(description: str | None = __doc__) -> None:
    """Parse the flags and draw."""

    def run() -> None:
        config = COMMAND_LINE.parse(description=description)

        from dschat.evaluation.runs.plot import plot_runs

        plot_runs(config)

    run_script(run)
