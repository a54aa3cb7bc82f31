"""Penalties that know distances between tokens and need no solver: their flags."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import flag, require
from dschat.settings.flags import refuse_given
from dschat.settings.penalties import REGULARIZERS
from dschat.settings.regularizers import published as _before  # noqa: F401  the order of names
from dschat.settings.regularizers.ground import COST_TYPES, GroundSettings

__all__ = ["EnergySettings", "KernelMMDSettings", "SmoothedKLSettings"]


@dataclass
class SmoothedKLSettings(GroundSettings):
    """KL between distributions whose mass is spread over near tokens."""

    smoothing_neighbours: int = flag(
        32, "Tokens that a token's mass is spread over, itself included; 1: plain reverse KL."
    )
    smoothing_temperature: float = flag(
        0.1,
        "A token's mass goes to its nearest tokens by the softmax of -cost / this: of 1 - cosine, "
        "or, with --cost_type L2, of the distance over the mean distance.",
    )
    cost_type: str = flag("cos", "Cost between tokens, from their embeddings.", choices=COST_TYPES)

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        super().validate()
        require(
            self.smoothing_neighbours >= 1,
            f"{self.flag('smoothing_neighbours')} {self.smoothing_neighbours}: expected 1 or more.",
        )
        require(
            self.smoothing_temperature > 0,
            f"{self.flag('smoothing_temperature')} {self.smoothing_temperature}: expected a number "
            "above 0.",
        )


@dataclass
class KernelMMDSettings(GroundSettings):
    """Kernel MMD between next-token distributions."""

    identity_share: float = flag(
        0.1,
        "Weight of the identity beside the kernel of embeddings; 0: the penalty sees the mean "
        "embedding alone.",
    )
    cost_type: str = flag(
        "cos", "What the kernel's embeddings are made of, see the costs.", choices=COST_TYPES
    )

    def validate(self) -> None:
        """Refuse values out of range and flags without effect; raises `UserError`."""
        super().validate()
        require(
            0 <= self.identity_share < float("inf"),
            f"{self.flag('identity_share')} {self.identity_share}: expected 0 or more.",
        )
        for name in ("cost_power", "cost_saturation"):
            require(
                getattr(self, name) is None,
                f"{self.flag(name)} {getattr(self, name)}: the kernel of kernel_mmd is the product "
                "of embeddings, whose cost is the squared distance, not bounded. Remove the flag, "
                "or use --regularizer energy_distance.",
            )


@dataclass
class EnergySettings(GroundSettings):
    """The energy distance."""

    top_k: int = flag(
        128,
        "The top_k tokens of policy and reference have a bin of their own; only costs that are no "
        "squared distance need bins (L2, or another power or a saturation).",
    )

    def validate(self) -> None:
        """Refuse values out of range and flags without effect; raises `UserError`."""
        super().validate()
        require(self.top_k >= 1, f"{self.flag('top_k')} {self.top_k}: expected 1 or more.")
        power = self.cost_power or (1.0 if self.cost_type == "L2" else 2.0)
        refuse_given(
            self,
            "top_k",
            power != 2 or self.cost_saturation is not None,
            "a cost that is no squared distance; this one is exact over the whole vocabulary "
            "(--cost_type L2, --cost_power or --cost_saturation change it)",
        )


REGULARIZERS.add(
    "smoothed_kl",
    "dschat.regularization.registry:smoothed_kl",
    SmoothedKLSettings,
    "reverse KL after every token's mass is spread over near tokens",
)
REGULARIZERS.add(
    "kernel_mmd",
    "dschat.regularization:KernelMMD",
    KernelMMDSettings,
    "squared distance of the mean embeddings, plus a share of the identity",
)
REGULARIZERS.add(
    "energy_distance",
    "dschat.regularization:EnergyDistance",
    EnergySettings,
    "the Sinkhorn divergence for large epsilon, without a solver",
)
