"""The settings of sampling, and what they need of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.config import flag, require


@dataclass
class GenerationFlags:
    """How responses are sampled and what is kept of it."""

    reuse_rollout_logprobs: bool = flag(
        False,
        "Make the old log-probabilities and the penalty from the hidden states of sampling, and "
        "leave out the actor's pass over the responses in scoring. They agree up to rounding, so "
        "that probability ratios start near 1, no longer at exactly 1.",
    )


def require_generation(config: Any, plain_cache: bool, architecture: str) -> None:
    """Refuse what this policy cannot do; raises `UserError`.

    Args:
        plain_cache: whether the project's own decoding samples from the policy.
        architecture: of the policy, for the message.
    """
    if not config.reuse_rollout_logprobs:
        return
    require(
        plain_cache,
        f"--reuse_rollout_logprobs: {architecture} is sampled from by transformers (its attention "
        "does not keep plain keys and values), which shows no hidden states. Remove the flag.",
    )
    require(
        config.actor_zero_stage < 3 or config.enable_zero3_generation_gather,
        "--reuse_rollout_logprobs with --actor_zero_stage 3 needs the whole actor while it "
        "samples: add --enable_zero3_generation_gather, or remove the flag.",
    )
