"""The regularisers that are built in: their flags and the checks of these.

Each entry of `REGULARIZERS` maps a name to its settings here and to the class or function that a
run calls with them, see `dschat.regularization.regularizer_from_config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.flags import refuse_given
from dschat.settings.references import KL_TYPES
from dschat.settings.registry import REGULARIZERS
from dschat.settings.regularizers.ground import GroundSettings

__all__ = [
    "REGULARIZERS",
    "FDivergenceSettings",
    "KLSettings",
    "SinkhornSettings",
    "TransportSettings",
    "WassersteinSettings",
]

F_DIVERGENCES = ["rkl", "fkl", "js", "alpha", "tv", "chi"]
KL_ESTIMATORS = ["k1", "k2", "k3", "exact"]


@dataclass
class KLSettings(Settings):
    """KL divergences."""

    kl_type: str = flag(
        "rkl",
        "rkl, sum_k w_k KL(policy || ref_k) over the references, or fkl, sum_k w_k "
        "KL(ref_k || policy).",
        choices=KL_TYPES,
    )
    kl_estimator: str = flag(
        "exact",
        "How the logged reverse KL is measured (--kl_type rkl); the training signal is the same "
        "for all.",
        choices=KL_ESTIMATORS,
    )
    fkl_estimator: str = flag(
        "samples",
        "--kl_type fkl: samples: minus the log-probability of responses drawn from the references, "
        "exact for sum_k w_k KL(ref_k || policy) over whole responses (grpo and rloo). per_state: "
        "the forward KL from the mixture of references at the policy's own states, a surrogate.",
        choices=["samples", "per_state"],
    )
    reference_samples: int = flag(
        1,
        "Responses drawn from the references per prompt, once before training (--fkl_estimator "
        "samples).",
    )

    @property
    def from_samples(self) -> bool:
        """Whether the penalty is the forward KL estimated from the references' samples."""
        return self.kl_type == "fkl" and self.fkl_estimator == "samples"

    @property
    def of_mixture(self) -> bool:
        """Whether it is the divergence from the references' mixture, not from each of them."""
        return self.kl_type == "fkl" and self.fkl_estimator == "per_state"

    def validate(self) -> None:
        """Refuse flags without effect; raises `UserError`."""
        refuse_given(self, "kl_estimator", self.kl_type == "rkl", f"{self.flag('kl_type')} rkl")
        refuse_given(self, "fkl_estimator", self.kl_type == "fkl", f"{self.flag('kl_type')} fkl")
        refuse_given(
            self,
            "reference_samples",
            self.from_samples,
            f"{self.flag('kl_type')} fkl, estimated from samples",
        )


@dataclass
class FDivergenceSettings(Settings):
    """f-divergences."""

    f_div: str = flag(
        "rkl",
        "The divergence: rkl (reverse KL), fkl (forward KL), js, alpha, tv (total variation), chi.",
        choices=F_DIVERGENCES,
    )
    f_div_alpha: float = flag(0.5, "The alpha of --f_div alpha, between 0 and 1.")
    f_div_low_var: bool = flag(
        False, "Published low-variance estimators of rkl and fkl (with --f_div_form value)."
    )
    f_div_form: str = flag(
        "value",
        "value: the published estimate f(x)/x at the sampled token, clipped at 2.5. gradient: the "
        "first variation, whose policy gradient is that of the divergence itself, unclipped.",
        choices=["value", "gradient"],
    )
    kl_estimator: str = flag(
        "exact",
        "How the logged reverse KL is measured (with --f_div rkl); the training signal is the same "
        "for all.",
        choices=KL_ESTIMATORS,
    )

    def validate(self) -> None:
        """Refuse values out of range and flags without effect; raises `UserError`."""
        require(
            not self.f_div_low_var or (self.f_div in ("rkl", "fkl") and self.f_div_form == "value"),
            "--f_div_low_var exists for --f_div rkl and fkl with --f_div_form value only.",
        )
        refuse_given(self, "f_div_alpha", self.f_div == "alpha", "--f_div alpha")
        require(
            self.f_div != "alpha" or 0 < self.f_div_alpha < 1,
            f"--f_div_alpha {self.f_div_alpha}: expected a number between 0 and 1.",
        )
        require(
            self.kl_estimator == "exact" or (self.f_div == "rkl" and not self.f_div_low_var),
            "--kl_estimator works with --f_div rkl without --f_div_low_var only: the other "
            "divergences are logged exactly.",
        )


@dataclass
class TransportSettings(GroundSettings):
    """What penalties share that move mass between tokens."""

    top_k: int = flag(128, "k2: the top_k tokens of policy and reference take part.")

    def validate(self) -> None:
        """Refuse values out of range and flags without effect; raises `UserError`."""
        super().validate()
        require(self.top_k >= 1, f"--top_k {self.top_k}: expected 1 or more.")
        for name, holds, expected in (
            ("cost_dim", lambda v: v >= 1, "1 or more"),
            ("block_size", lambda v: v >= 1, "1 or more"),
            ("epsilon", lambda v: v > 0, "a number above 0"),
            ("max_iter", lambda v: v >= 1, "1 or more"),
            ("tol", lambda v: v >= 0, "0 or more"),
        ):
            value = vars(self).get(name)
            require(value is None or holds(value), f"--{name} {value}: expected {expected}.")


@dataclass
class WassersteinSettings(TransportSettings):
    """The truncated transport of the paper's code."""

    cost_dim: int = flag(512, "k1: mass can move to a token's cost_dim nearest tokens.")
    epsilon: float = flag(0.01, "Entropic regularisation, in the unit of the costs.")
    max_iter: int = flag(10, "Most Sinkhorn iterations.")
    tol: float = flag(1e-6, "A position stops when u changes by no more.")
    normalize: bool = flag(False, "Centre the potential f over the support, as published.")
    block_size: int = flag(1024, "Rows in a block when the table of nearest tokens is built.")


@dataclass
class SinkhornSettings(TransportSettings):
    """The Sinkhorn divergence: debiased, with a policy gradient that is that of the divergence."""

    epsilon: float | None = flag(
        None,
        "Entropic regularisation, in units of the mean token distance; unset: a third of the "
        "median distance to the nearest other token, at least 0.05.",
    )
    max_iter: int = flag(200, "Most Sinkhorn iterations.")
    tol: float = flag(1e-3, "A position stops when the marginals are off by no more.")


REGULARIZERS.add(
    "kl", "dschat.regularization.registry:kl", KLSettings, "reverse or forward KL, unclipped"
)
REGULARIZERS.add(
    "f_divergence",
    "dschat.regularization.registry:f_divergence",
    FDivergenceSettings,
    "KL and f-divergences as published, and with the divergence's own gradient",
)
REGULARIZERS.add(
    "wasserstein",
    "dschat.regularization:TruncatedWasserstein",
    WassersteinSettings,
    "the published truncated transport between next-token distributions",
)
REGULARIZERS.add(
    "sinkhorn_divergence",
    "dschat.regularization:SinkhornDivergence",
    SinkhornSettings,
    "debiased transport whose policy gradient is that of the divergence",
)
