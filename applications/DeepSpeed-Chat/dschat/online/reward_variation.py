"""Whether rewards still differ: where they do not, nothing says what is better."""

from __future__ import annotations

from collections.abc import Mapping

PATIENCE = 5
"""Iterations in a row without any difference before a warning."""


class RewardVariation:
    """Counts iterations in a row in which no reward differed from those it is compared with."""

    def __init__(self) -> None:
        self.constant = 0

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """A warning once nothing has varied for `PATIENCE` iterations; once for each such time.

        Args:
            metrics: of an iteration (`iteration_metrics`); those of one that was left out count
                for nothing.
        """
        if "reward" not in metrics:
            return None
        grouped = "equal_groups" in metrics
        rounding = 1e-6 * (1 + abs(metrics["reward"]))
        equal = metrics["equal_groups"] == 1 if grouped else metrics["reward_std"] < rounding
        self.constant = self.constant + 1 if equal else 0
        if self.constant != PATIENCE:
            return None
        among = "within every group" if grouped else "of all responses"
        found = [name for name in metrics if name.startswith("reward/")]
        parts = ", ".join(f"{name} {metrics[name]:.3g}" for name in found)
        return (
            f"WARNING: for {PATIENCE} iterations the rewards {among} were equal (now "
            f"{metrics['reward']:.4g}): the reward teaches nothing. Read responses with "
            "--print_answers; take prompts that the model gets right now and then, more responses "
            "a prompt, or a model that knows the format."
            + (f" Parts of the reward: {parts}." if parts else "")
        )
