"""The policy losses that are built in, with their flags: see docs/losses.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.registry import POLICY_LOSSES


@dataclass
class PPOClipSettings(Settings):
    """Of PPO's clipped surrogate, beside --clip_range."""

    dual_clip: float | None = flag(
        None,
        "A token of negative advantage has a gradient up to this ratio only, above 1 plus the clip "
        "range (verl's clip_ratio_c, TRL's delta); unset: up to any.",
    )

    def validate(self) -> None:
        """Refuse a bound within any clip range; raises `UserError`."""
        require(
            self.dual_clip is None or self.dual_clip > 1,
            f"{self.flag('dual_clip')} {self.dual_clip}: expected a number above 1.",
        )


@dataclass
class GSPOSettings(Settings):
    """Of GSPO: the clip range of a response's ratio, which is far narrower than a token's."""

    unused: ClassVar[tuple[str, ...]] = ("clip_range", "clip_range_high")
    normalization: ClassVar[str] = "sequence"

    gspo_clip_range: float = flag(
        3e-4, "The geometric mean of a response's ratios is clipped to 1 minus this ..."
    )
    gspo_clip_range_high: float = flag(4e-4, "... and 1 plus this.")

    def validate(self) -> None:
        """Refuse what is no half-width; raises `UserError`."""
        for name, most in (("gspo_clip_range", 1.0), ("gspo_clip_range_high", float("inf"))):
            value = getattr(self, name)
            require(
                0 < value <= most,
                f"{self.flag(name)} {value}: expected a number above 0"
                + (", up to 1." if most == 1 else "."),
            )


@dataclass
class CISPOSettings(Settings):
    """Of CISPO: the range of the weights."""

    unused: ClassVar[tuple[str, ...]] = ("clip_range", "clip_range_high")

    cispo_ratio_max: float = flag(5.0, "The largest weight of a token's log-probability.")
    cispo_ratio_min: float = flag(0.0, "The smallest one; 0: none.")

    def validate(self) -> None:
        """Refuse a range without 1; raises `UserError`."""
        low, high = self.cispo_ratio_min, self.cispo_ratio_max
        require(
            0 <= low <= 1 <= high,
            f"{self.flag('cispo_ratio_min')} {low} and {self.flag('cispo_ratio_max')} {high}: "
            "expected 0 or more, up to 1, and 1 or more.",
        )


POLICY_LOSSES.add(
    "ppo_clip",
    "dschat.algorithms.losses:ppo_clip",
    PPOClipSettings,
    "PPO's clipped surrogate",
)
POLICY_LOSSES.add(
    "gspo",
    "dschat.algorithms.loss_variants:gspo",
    GSPOSettings,
    "the same with the ratio of a whole response, per token (GSPO)",
)
POLICY_LOSSES.add(
    "cispo",
    "dschat.algorithms.loss_variants:cispo",
    CISPOSettings,
    "log-probabilities times clipped ratios (CISPO)",
)
