"""The settings of the penalties, and of the two scripts that are named after them."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import flag, require
from dschat.settings.online import OnlineConfig

F_DIVERGENCES = ["rkl", "fkl", "js", "alpha", "tv", "chi"]
KL_ESTIMATORS = ["k1", "k2", "k3", "exact"]


@dataclass
class DivergenceFlags:
    """KL and f-divergences."""

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

    def validate_penalty(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        require(
            not self.f_div_low_var or (self.f_div in ("rkl", "fkl") and self.f_div_form == "value"),
            "--f_div_low_var exists for --f_div rkl and fkl with --f_div_form value only.",
        )
        require(
            self.f_div != "alpha" or 0 < self.f_div_alpha < 1,
            f"--f_div_alpha {self.f_div_alpha}: expected a number between 0 and 1.",
        )
        require(
            self.f_div_alpha == 0.5 or self.f_div == "alpha",
            f"--f_div_alpha {self.f_div_alpha} belongs to --f_div alpha. Remove it.",
        )
        require(
            self.kl_estimator == "exact" or (self.f_div == "rkl" and not self.f_div_low_var),
            "--kl_estimator works with --f_div rkl without --f_div_low_var only: the other "
            "divergences are logged exactly.",
        )


@dataclass
class WassersteinFlags:
    """Transport between next-token distributions."""

    transport: str = flag(
        "published",
        "published: the truncated potential of the paper's code. sinkhorn_divergence: debiased "
        "and normalised so that its policy gradient is that of the divergence; its costs are in "
        "units of the mean token distance.",
        choices=["published", "sinkhorn_divergence"],
    )
    cost_dim: int | None = flag(
        None,
        "k1: mass can move to a token's so many nearest tokens; unset: 512 (published only).",
    )
    cost_type: str = flag(
        "L2",
        "Cost between input embeddings: L2 distance or cos (1 - cosine).",
        choices=["L2", "cos"],
    )
    epsilon: float | None = flag(
        None,
        "Entropic regularisation; unset: 0.01 (published); for sinkhorn_divergence, in units of "
        "the mean token distance, a third of the median distance to the nearest other token, at "
        "least 0.05.",
    )
    max_iter: int | None = flag(
        None, "Most Sinkhorn iterations; unset: 10 (published), 200 (sinkhorn_divergence)."
    )
    tol: float | None = flag(
        None,
        "A position stops when u changes by no more; unset: 1e-6 (published). For "
        "sinkhorn_divergence: when the marginals are off by no more; unset: 1e-3.",
    )
    top_k: int = flag(128, "k2: so many most probable tokens of either policy take part.")
    normalize: bool = flag(
        False, "Centre the potential f over the support, as published (published only)."
    )
    block_size: int | None = flag(
        None,
        "Rows in a block when the table of nearest tokens is built; unset: 1024 (published only).",
    )
    gaussian_perturb: float = flag(
        0.0, "Share g of Gaussian noise in the embeddings: (1 - g) E + g N(0, 1)."
    )

    def validate_penalty(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        for name in ("cost_dim", "top_k", "block_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: expected 1 or more.")
        if self.transport != "published":
            for name in ("cost_dim", "normalize", "block_size"):
                require(
                    not getattr(self, name),
                    f"--{name} belongs to --transport published: the Sinkhorn divergence takes "
                    "all costs on its support. Remove the flag.",
                )
        for name in ("epsilon", "max_iter"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} {value}: expected a number above 0.")
        require(self.tol is None or self.tol >= 0, f"--tol {self.tol}: expected 0 or more.")
        require(
            0 <= self.gaussian_perturb <= 1,
            f"--gaussian_perturb {self.gaussian_perturb}: expected a share from 0 to 1.",
        )


@dataclass
class DivergenceConfig(DivergenceFlags, OnlineConfig):
    """main.py: the policy is held near its reference by KL or an f-divergence."""

    @property
    def regularizer(self) -> str:
        """The penalty's name in the regularisers' registry."""
        return "f_divergence"

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        super().validate()
        self.validate_penalty()


@dataclass
class WassersteinConfig(WassersteinFlags, OnlineConfig):
    """main_wpr.py: the policy is held near its reference by a Wasserstein penalty."""

    @property
    def regularizer(self) -> str:
        """The penalty's name in the regularisers' registry."""
        return "wasserstein"

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        super().validate()
        self.validate_penalty()
