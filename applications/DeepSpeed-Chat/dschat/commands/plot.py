"""Draw training runs: rewards, divergences, lengths and losses, and reward against drift."""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.comparison import PLOT


def main(description: str | None = __doc__) -> None:
    """Parse the flags and draw."""

    def run() -> None:
        config = PLOT.parse(description=description)

        from dschat.evaluation.runs.plot import plot_runs

        plot_runs(config)

    run_script(run)
