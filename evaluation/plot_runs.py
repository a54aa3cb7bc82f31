"""Draw training runs: rewards, divergences, lengths and losses, and reward against drift.

python evaluation/plot_runs.py runs/kl-0.05-seed1 runs/kl-0.05-seed2 runs/wpr-0.3-seed1 \
    --output plots

Runs that differ in their seed only are drawn as one line with a band.
"""

from dschat.settings.command_line import run_script
from dschat.settings.runs import parse_plot_config


def main() -> None:
    """Parse the settings and run."""
    config = parse_plot_config(description=__doc__)

    from dschat.evaluation.runs.plot import plot_runs

    plot_runs(config)


if __name__ == "__main__":
    run_script(main)
