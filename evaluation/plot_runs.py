r"""Draw training runs: rewards, divergences, lengths and losses, and reward against drift.

    python evaluation/plot_runs.py runs/kl-0.05-seed1 runs/kl-0.05-seed2 runs/wpr-0.3-seed1 \
        --output plots

Runs that differ in their seed only are drawn as one line with a band.
"""

from dschat.commands.plot import main

if __name__ == "__main__":
    main(__doc__)
