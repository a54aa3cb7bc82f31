"""The divergences and estimators of published work beside those of `dschat.settings.penalties`.

Each is one entry of `REGULARIZERS`; docs/regularisers.md has the table of sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.penalties import F_DIVERGENCES, REGULARIZERS, refuse_given

__all__ = ["NoPenaltySettings", "RenyiSettings", "SampledKLSettings", "TsallisSettings"]


def _require_order(settings: Settings, name: str) -> None:
    order = getattr(settings, name)
    require(
        0 < order < float("inf") and order != 1,
        f"{settings.flag(name)} {order}: expected a number above 0 other than 1 (at 1 it is KL: "
        "--regularizer kl).",
    )


@dataclass
class RenyiSettings(Settings):
    """Renyi's divergence."""

    renyi_alpha: float = flag(
        0.5, "The order, above 0 and not 1: towards 1 the divergence becomes reverse KL."
    )

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        _require_order(self, "renyi_alpha")


@dataclass
class TsallisSettings(Settings):
    """Tsallis' divergence."""

    tsallis_q: float = flag(
        0.5,
        "The order, above 0 and not 1: towards 1 the divergence becomes reverse KL; 2 is chi "
        "squared.",
    )

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        _require_order(self, "tsallis_q")


@dataclass
class SampledKLSettings(Settings):
    """Estimates of KL at the sampled token, where TRL, verl and OpenRLHF put them."""

    kl_placement: str = flag(
        "reward",
        "reward: in the reward of the token, and so in the advantages of earlier ones. loss: a "
        "term of the policy's loss, which sees each state by itself and not what led there.",
        choices=["reward", "loss"],
    )
    kl_term: str = flag(
        "k1",
        "k1, the log-ratio l (reward only); k2, l^2 / 2; k3, exp(-l) - 1 + l; top_k (loss only), "
        "the divergence summed over the policy's likeliest tokens, and sampled beyond. Which of "
        "them have the gradient of KL: docs/regularisers.md.",
        choices=["k1", "k2", "k3", "top_k"],
    )
    top_k: int = flag(64, "How many tokens top_k sums over; 0: all is sampled.")
    loss_divergence: str = flag(
        "rkl",
        "The divergence of --kl_term top_k.",
        choices=[name for name in F_DIVERGENCES if name != "alpha"],
    )

    @property
    def in_loss(self) -> bool:
        """Whether the penalty is a term of the loss, and none of the reward."""
        return self.kl_placement == "loss"

    def validate(self) -> None:
        """Refuse what has no gradient, and flags without effect; raises `UserError`."""
        placement, term = self.flag("kl_placement"), self.flag("kl_term")
        require(
            not self.in_loss or self.kl_term != "k1",
            f"{placement} loss with {term} k1: the mean gradient of a log-ratio at the policy's "
            f"own tokens is 0, so that nothing would be kept near. Use {term} k2, which has KL's "
            f"gradient there, or {placement} reward.",
        )
        require(
            self.in_loss or self.kl_term != "top_k",
            f"{placement} reward with {term} top_k: a sum over likely tokens is the same whichever "
            f"of them was drawn, and no gradient of it would be left. Use {placement} loss, or "
            "--regularizer kl, which is exact.",
        )
        require(self.top_k >= 0, f"{self.flag('top_k')} {self.top_k}: expected 0 or more.")
        for name in ("top_k", "loss_divergence"):
            refuse_given(self, name, self.kl_term == "top_k", f"{term} top_k")


@dataclass
class NoPenaltySettings(Settings):
    """No penalty, and no reference in memory."""

    needs_references: ClassVar[bool] = False


def has_references(config: Any) -> bool:
    """Whether a run's penalty compares the policy with a reference."""
    return bool(getattr(config.penalty, "needs_references", True))


def check_penalty(config: Any) -> None:
    """Refuse what does not fit the chosen penalty; raises `UserError`.

    Args:
        config: an `OnlineConfig`.
    """
    flag = config.flag
    chosen = f"{flag('regularizer')} {config.regularizer}"
    if not has_references(config):
        names = ["kl_ctl", "refs", "ref_weights", "ref_a", "ref_b", "alpha", "beta"]
        names += ["reference_residency", "reference_quantization"]
        if not config.uses_reward_model or config.reward_is_the_critic():
            names += ["offload_reference_model", "frozen_dtype"]
        given = [flag(name) for name in names if name in config.given]
        require(
            not given,
            f"{', '.join(given)}: with {chosen} there is neither a penalty nor a reference. Remove "
            "what belongs to them, or choose a penalty.",
        )
        require(
            config.termination_condition != "ppl",
            f"{flag('termination_condition')} ppl reads the reference's perplexity, and with "
            f"{chosen} there is no reference. Choose another of the two.",
        )
    require(
        not getattr(config.penalty, "in_loss", False) or len(config.references()) <= 1,
        f"{flag('kl_placement')} loss knows one reference, as where it comes from, and "
        f"{len(config.references())} are given. Use {flag('kl_placement')} reward, or "
        "--regularizer kl.",
    )


REGULARIZERS.add(
    "renyi",
    "dschat.regularization.power_divergences:RenyiDivergence",
    RenyiSettings,
    "Renyi's divergence of any order, with its own gradient",
)
REGULARIZERS.add(
    "tsallis",
    "dschat.regularization.power_divergences:TsallisDivergence",
    TsallisSettings,
    "Tsallis' divergence of any order, with its own gradient",
)
REGULARIZERS.add(
    "sampled_kl",
    "dschat.regularization.sampled_kl:SampledKL",
    SampledKLSettings,
    "k1, k2, k3 or top-k estimates of KL in the reward or in the loss, as in TRL, verl, OpenRLHF",
)
REGULARIZERS.add(
    "none",
    "dschat.regularization.base:NoPenalty",
    NoPenaltySettings,
    "no penalty: no reference is loaded",
)
