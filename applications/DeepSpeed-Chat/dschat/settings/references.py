"""The flags that name several reference models and their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dschat.settings.command_line import Settings, flag, require

KL_TYPES = ["rkl", "fkl"]
WEIGHT_TOLERANCE = 1e-6
DEFAULT_WEIGHT = 0.5
REFERENCES = "Penalty and references"
"""Title of the group of flags."""


@dataclass
class ReferenceFlags(Settings):
    """The references of a run, mixed as in Aminian et al. (arXiv 2502.01203).

    Either --ref_a and --ref_b with one weight, or --refs with any number of models.
    """

    refs: list[str] | None = flag(
        None,
        "One or more references with the policy's tokenizer: model folders or hub names.",
        group=REFERENCES,
    )
    ref_weights: list[float] | None = flag(
        None, "Weights of --refs, in their order, with sum 1; unset: equal weights."
    )
    ref_a: str | None = flag(None, "Instead of --refs: the first of two references.")
    ref_b: str | None = flag(None, "The second reference.")
    alpha: float = flag(
        DEFAULT_WEIGHT,
        "RKL: weight of ref_a in the geometric mean, in [0, 1]; ref_b has the rest. Not read with "
        "--kl_type fkl.",
    )
    beta: float = flag(
        DEFAULT_WEIGHT,
        "FKL: weight of ref_a in the arithmetic mean, in [0, 1]; ref_b has the rest. Not read with "
        "--kl_type rkl.",
    )


def reference_weights(config: ReferenceFlags, kl_type: str) -> list[tuple[str, float]]:
    """The references in order, each with its weight; the weights have sum 1.

    Args:
        kl_type: beta is the weight of ref_a for fkl, else alpha.

    Raises:
        UserError: neither or both ways to name references, a reference without its partner, or
            weights that are not a distribution over the references.
    """
    if config.refs is not None:
        return _from_list(config)
    require(
        config.ref_weights is None,
        "--ref_weights belongs to --refs. With --ref_a and --ref_b give the weight of ref_a: "
        "--alpha (rkl) or --beta (fkl).",
    )
    require(
        config.ref_a is not None or config.ref_b is not None,
        "Give the references: --ref_a FOLDER --ref_b FOLDER, or --refs FOLDER FOLDER ...",
    )
    for given, missing in (("ref_a", "ref_b"), ("ref_b", "ref_a")):
        require(
            getattr(config, missing) is not None,
            f"{config.flag(given)} is given without {config.flag(missing)}. Give both, or a single "
            f"reference with --refs {getattr(config, given)}",
        )
    assert config.ref_a is not None
    assert config.ref_b is not None
    for name in ("alpha", "beta"):
        value = getattr(config, name)
        require(
            0.0 <= value <= 1.0,
            f"{config.flag(name)} {value}: expected the weight of ref_a, in [0, 1].",
        )
    weight = config.beta if kl_type == "fkl" else config.alpha
    return [(config.ref_a, weight), (config.ref_b, 1.0 - weight)]


def _from_list(config: ReferenceFlags) -> list[tuple[str, float]]:
    assert config.refs is not None
    require(
        config.ref_a is None and config.ref_b is None,
        "--refs and --ref_a/--ref_b both name the references; give one of the two.",
    )
    for name in ("alpha", "beta"):
        require(
            name not in config.given,
            f"{config.flag(name)} is the weight of --ref_a and has no effect with --refs: use "
            "--ref_weights.",
        )
    return check_weights(config.refs, config.ref_weights)


def check_weights(refs: list[str], ref_weights: list[float] | None) -> list[tuple[str, float]]:
    """What --refs and --ref_weights name: references and weights, in order, with sum 1.

    Args:
        refs: model folders or hub names.
        ref_weights: one for each; None: equal weights.

    Raises:
        UserError: the weights are not a distribution over the references.
    """
    require(len(refs) > 0, "--refs is empty; expected one or more model folders.")
    count = len(refs)
    weights = [1.0 / count] * count if ref_weights is None else ref_weights
    require(
        len(weights) == count,
        f"--ref_weights has {len(weights)} numbers for {count} --refs; expected one for each.",
    )
    require(
        all(math.isfinite(w) and w >= 0.0 for w in weights),
        f"--ref_weights {_spelled(weights)}: expected numbers from 0 to 1.",
    )
    total = math.fsum(weights)
    require(total > 0.0, f"--ref_weights {_spelled(weights)}: all weights are 0; their sum is 1.")
    require(
        abs(total - 1.0) <= WEIGHT_TOLERANCE,
        f"--ref_weights {_spelled(weights)} add up to {total:g}; expected 1. In the same "
        f"proportions: --ref_weights {_spelled([w / total for w in weights])}",
    )
    # What rounding has left of the sum would tilt a geometric mean with the length of a text.
    return [(path, weight / total) for path, weight in zip(refs, weights, strict=True)]


def _spelled(weights: list[float]) -> str:
    return " ".join(f"{weight:.8g}" for weight in weights)
