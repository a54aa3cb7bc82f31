"""Who samples the responses of online training: flags and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.command_line import flag, require

BACKENDS = ["native", "transformers", "vllm"]
"""The names that `dschat.rollout.backends.in_place.make_backend` knows."""

REMOVED_BACKENDS = {"static": "transformers", "continuous": "native"}
"""Backends of earlier versions -> what takes the same tokens."""

VLLM_MEMORY = 0.3


@dataclass
class GenerationFlags:
    """What samples the responses, and what is kept of it."""

    generation_backend: str = flag(
        "native",
        "What samples the responses: native, this project's decoding, or transformers' generate "
        "where the model's attention is not plain; transformers, its generate for every model; "
        "vllm, an engine of that package on every rank, with a copy of the weights. The first two "
        "take the same tokens; vllm draws others from the same distribution.",
    )
    vllm_gpu_memory_utilization: float = flag(
        VLLM_MEMORY,
        "Share of the device's memory (on a CPU: of the host's) that vLLM may take on each rank, "
        "for its copy of the weights and for keys and values.",
    )
    reuse_rollout_logprobs: bool = flag(
        False,
        "Make the old log-probabilities and the penalty from the hidden states of sampling, and "
        "leave out the actor's pass over the responses in scoring. They agree up to rounding, so "
        "that probability ratios start near 1, no longer at exactly 1, and the first iteration's "
        "divergence near 0; the Wasserstein potential, which is 0 for equal policies only, starts "
        "as for others.",
    )


def require_backend(config: Any) -> None:
    """Refuse settings that do not fit the backend; raises `UserError`.

    Args:
        config: settings of the online trainer.
    """
    name, share = config.generation_backend, config.vllm_gpu_memory_utilization
    require(
        name not in REMOVED_BACKENDS,
        f"--generation_backend {name} was removed: it showed no gain. Use "
        f"{REMOVED_BACKENDS.get(name)}, which takes the same tokens.",
    )
    require(
        name in BACKENDS,
        f"--generation_backend {name}: expected one of {', '.join(BACKENDS)}.",
    )
    require(
        0 < share <= 1,
        f"--vllm_gpu_memory_utilization {share}: expected a number above 0, up to 1.",
    )
    require(
        name == "vllm" or share == VLLM_MEMORY,
        f"--vllm_gpu_memory_utilization {share} belongs to --generation_backend vllm. Remove it.",
    )
    require(
        name != "vllm" or not config.enable_zero3_generation_gather,
        "--enable_zero3_generation_gather: --generation_backend vllm has the weights whole, and is "
        "sent one gathered weight at a time. Remove the flag.",
    )
    require(
        not config.reuse_rollout_logprobs or name == "native",
        f"--reuse_rollout_logprobs: --generation_backend {name} shows no hidden states. Remove one "
        "of the two.",
    )
    require(
        not config.reuse_rollout_logprobs
        or config.actor_zero_stage < 3
        or config.enable_zero3_generation_gather,
        "--reuse_rollout_logprobs with --actor_zero_stage 3 needs the whole actor while it "
        "samples: add --enable_zero3_generation_gather, or remove the flag.",
    )


def require_plain_cache(config: Any, plain_cache: bool, architecture: str) -> None:
    """Refuse to keep states that the project's own decoding does not see; raises `UserError`.

    Args:
        plain_cache: whether it samples from the policy (`has_plain_cache`).
        architecture: of the policy, for the message.
    """
    require(
        plain_cache or not config.reuse_rollout_logprobs,
        f"--reuse_rollout_logprobs: {architecture} is sampled from by transformers (its attention "
        "does not keep plain keys and values), which shows no hidden states. Remove the flag.",
    )
