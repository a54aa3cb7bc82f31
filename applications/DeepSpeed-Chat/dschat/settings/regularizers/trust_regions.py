"""Policy losses with a trust region of the token's probability: their flags and entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dschat.settings.algorithms import policy_losses as _before  # noqa: F401  the order of names
from dschat.settings.command_line import Settings, flag, require
from dschat.settings.registry import POLICY_LOSSES


@dataclass
class DPPOSettings(Settings):
    """DPPO's mask."""

    unused: ClassVar[tuple[str, ...]] = ("clip_range", "clip_range_high")
    dppo_divergence: str = flag("tv", "What is bounded at a token.", choices=["tv", "kl"])
    dppo_threshold: float = flag(
        0.2, "Tokens beyond it are left out where the step leads away (0.05 is usual with kl)."
    )

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        value = self.dppo_threshold
        require(value > 0, f"--dppo_threshold {value}: expected a number above 0.")


@dataclass
class DRPOSettings(Settings):
    """DRPO's quadratic regulariser."""

    unused: ClassVar[tuple[str, ...]] = ("clip_range", "clip_range_high")
    drpo_delta: float = flag(0.2, "The shift of a probability at which a step is turned round.")

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        require(self.drpo_delta > 0, f"--drpo_delta {self.drpo_delta}: expected a number above 0.")


def refuse_clipping(config: Any) -> None:
    """Refuse flags of PPO's clipping where the loss does not clip; raises `UserError`."""
    unused = getattr(POLICY_LOSSES[config.policy_loss].settings, "unused", ())
    given = [config.flag(name) for name in unused if name in config.given]
    require(
        not given,
        f"{', '.join(given)}: --policy_loss {config.policy_loss} does not clip a token's ratio. "
        "Remove it.",
    )


POLICY_LOSSES.add(
    "dppo",
    "dschat.algorithms.trust_regions:dppo",
    DPPOSettings,
    "a mask by the token's total variation or KL instead of clipping (DPPO)",
)
POLICY_LOSSES.add(
    "drpo",
    "dschat.algorithms.trust_regions:drpo",
    DRPOSettings,
    "a quadratic regulariser of the token's probability instead of clipping (DRPO)",
)
