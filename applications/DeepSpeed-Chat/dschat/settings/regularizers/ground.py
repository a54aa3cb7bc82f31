"""The ground metric: the flags of all penalties that know distances between tokens."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.flags import Settings, flag, refuse_given, require

COST_TYPES = ["L2", "cos", "cos_centred", "cos_whitened"]
TABLES = ["input", "output"]
TABLE_SUFFIX = ".safetensors"


@dataclass
class GroundSettings(Settings):
    """What penalties share that know distances between tokens (docs/ground_metrics.md)."""

    cost_type: str = flag(
        "L2",
        "Cost between tokens, from their embeddings: L2 distance; cos (1 - cosine); cos_centred, "
        "the same without their mean and largest principal components; cos_whitened, with all "
        "components of the same variance.",
        choices=COST_TYPES,
    )
    cost_components: int = flag(
        10, "Principal components removed (--cost_type cos_centred); 0: the mean only."
    )
    cost_power: float | None = flag(
        None,
        "Power of the distance in the cost, above 0, at most 2. With cos, the distance is the root "
        "of 1 - cosine. Unset: 1 for L2, 2 for the others.",
    )
    cost_saturation: float | None = flag(
        None,
        "Bound the cost: 1 - exp(-cost / (this times the mean cost of tokens)). Unset: no bound.",
    )
    embedding: str = flag(
        "input",
        "The table of embeddings: input or output (the first reference's layers), or a file "
        "NAME.safetensors of yours with one tensor [tokens, dimensions], its rows by token id.",
    )
    permute_embeddings: int | None = flag(
        None,
        "A control: permute the rows of the table at random, by this seed, among tokens of like "
        "norm and frequency, special tokens excepted. Distances stay, and lose their meaning.",
    )
    gaussian_perturb: float = flag(
        0.0, "Share g of Gaussian noise in the embeddings: (1 - g) E + g N(0, 1)."
    )

    def validate(self) -> None:
        """Refuse values out of range and flags without effect; raises `UserError`."""
        refuse_given(
            self,
            "cost_components",
            self.cost_type == "cos_centred",
            f"{self.flag('cost_type')} cos_centred",
        )
        seed = self.permute_embeddings
        for name, holds, expected in (
            ("cost_components", self.cost_components >= 0, "0 or more"),
            (
                "cost_power",
                self.cost_power is None or 0 < self.cost_power <= 2,
                "a number above 0, at most 2 (beyond, the divergence could be negative)",
            ),
            (
                "cost_saturation",
                self.cost_saturation is None or self.cost_saturation > 0,
                "a number above 0",
            ),
            (
                "embedding",
                self.embedding in TABLES or self.embedding.endswith(TABLE_SUFFIX),
                f"{', '.join(TABLES)}, or a file that ends in {TABLE_SUFFIX}",
            ),
            ("permute_embeddings", seed is None or seed >= 0, "a seed, 0 or more"),
            ("gaussian_perturb", 0 <= self.gaussian_perturb <= 1, "a share from 0 to 1"),
        ):
            require(holds, f"{self.flag(name)} {getattr(self, name)}: expected {expected}.")
