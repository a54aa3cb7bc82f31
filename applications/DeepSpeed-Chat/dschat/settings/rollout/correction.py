"""The flags of the off-policy correction, where another engine than the policy samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dschat.settings.command_line import Settings, flag, require

CORRECTIONS = ["tis", "mask", "none"]
LEVELS = ["token", "sequence"]


@dataclass
class RolloutCorrectionFlags(Settings):
    """Importance weights pi/mu of responses that were drawn from mu, not from the policy pi."""

    rollout_correction: str | None = flag(
        None,
        "What makes up for responses that another engine drew from its own distribution mu, by "
        "the policy's ratio pi/mu: tis, truncated importance sampling, weights of at most "
        "--rollout_correction_cap; mask, weights of 0 outside of 1/cap to cap; none, only "
        "measured. Unset: tis with vllm. Without another engine there is nothing to correct.",
        choices=CORRECTIONS,
        group="Off-policy correction",
    )
    rollout_correction_cap: float = flag(2.0, "The largest importance weight.")
    rollout_correction_level: str = flag(
        "token",
        "token: each token weighs pi(a)/mu(a), whatever led to it: half of the bias stays, and the "
        "variance does not grow with length. sequence: all tokens of a response weigh "
        "pi(y)/mu(y): no bias but by the cap; the weights spread with the length "
        "(docs/generation.md).",
        choices=LEVELS,
    )
    rollout_max_kl: float | None = flag(
        None,
        "The run stops where KL(mu || pi), in nats per token, is above this in an iteration: the "
        "engine then has other weights than the policy, or computes them differently. Unset: what "
        "correct computations stay below, by the dtype of the weights: 1e-5 in fp32, 2e-4 in fp16, "
        "6e-3 in bf16.",
    )


def require_correction(config: Any) -> None:
    """Fill in the default correction, and refuse flags that would do nothing; raises `UserError`.

    Args:
        config: an `OnlineConfig`.
    """
    flag, kind = config.flag, config.rollout_correction
    correction, cap = flag("rollout_correction"), flag("rollout_correction_cap")
    elsewhere = config.generation_backend != "vllm"
    for name in (field.name for field in fields(RolloutCorrectionFlags)):
        require(
            not elsewhere or name not in config.given,
            f"{flag(name)}: with {flag('generation_backend')} {config.generation_backend} the "
            "policy itself samples, and there is nothing to correct. Remove the flag.",
        )
    if elsewhere:
        return
    config.rollout_correction = kind = kind or "tis"
    for name in ("rollout_correction_cap", "rollout_correction_level"):
        require(
            kind != "none" or name not in config.given,
            f"{flag(name)} has no effect with {correction} none. Remove one of the two.",
        )
    require(
        config.rollout_correction_cap > 1,
        f"{cap} {config.rollout_correction_cap}: expected a number above 1, the weight of what the "
        "policy and the engine find equally likely.",
    )
    bound = config.rollout_max_kl
    require(
        bound is None or bound > 0,
        f"{flag('rollout_max_kl')} {bound}: expected a number above 0, in nats per token.",
    )
