"""The flags of what samples the responses, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.command_line import Settings, flag, require

BACKENDS = ["native", "transformers", "vllm"]
"""The names that `dschat.rollout.backends.in_place.make_backend` knows."""

REMOVED_BACKENDS = {"static": "transformers", "continuous": "native"}
"""Backends of earlier versions -> what takes the same tokens."""

VLLM_FLAGS = ["vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_keep_memory"]
"""What has no meaning without vLLM."""


@dataclass
class BackendFlags(Settings):
    """The flags of online training that choose and set up what samples the responses."""

    generation_backend: str = flag(
        "native",
        "What samples the responses: native, this project's decoding, or transformers' generate "
        "where the model's attention is not plain; transformers, its generate for every model; "
        "vllm, an engine of that package on every rank, with a copy of the weights. The first two "
        "take the same tokens; vllm draws others from the same distribution, up to its own "
        "rounding (docs/generation.md).",
        group="Generation backends",
    )
    vllm_gpu_memory_utilization: float = flag(
        0.3,
        "Share of the device's memory (on a CPU: of the host's) that vLLM may take on each rank, "
        "for its copy of the weights and for keys and values.",
    )
    vllm_tensor_parallel_size: int = flag(
        1,
        "Ranks that share one vLLM engine: each holds a part of every weight, and all sample the "
        "responses of the group together. Divides the number of ranks; neighbours are grouped.",
    )
    vllm_keep_memory: bool = flag(
        False,
        "On a GPU: vLLM keeps its memory while the policy learns. Without the flag it is released "
        "after every generation batch (vLLM's sleep mode), and the weights are sent again.",
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
    """Refuse settings that do not fit what samples the responses; raises `UserError`.

    Args:
        config: an `OnlineConfig`.
    """
    flag = config.flag
    name, share = config.generation_backend, config.vllm_gpu_memory_utilization
    backend, memory = flag("generation_backend"), flag("vllm_gpu_memory_utilization")
    require(
        name not in REMOVED_BACKENDS,
        f"{backend} {name} was removed: it showed no gain. Use {REMOVED_BACKENDS.get(name)}, which "
        "takes the same tokens.",
    )
    require(name in BACKENDS, f"{backend} {name}: expected one of {', '.join(BACKENDS)}.")
    require(0 < share <= 1, f"{memory} {share}: expected a number above 0, up to 1.")
    size = config.vllm_tensor_parallel_size
    require(
        size >= 1, f"{flag('vllm_tensor_parallel_size')} {size}: expected a number of ranks, 1 up."
    )
    for vllm_flag in VLLM_FLAGS:
        require(
            name == "vllm" or vllm_flag not in config.given,
            f"{flag(vllm_flag)} {getattr(config, vllm_flag)} belongs to {backend} vllm. Remove it.",
        )
    gather, reuse = flag("enable_zero3_generation_gather"), flag("reuse_rollout_logprobs")
    require(
        name != "vllm" or not config.enable_zero3_generation_gather,
        f"{gather}: {backend} vllm has the weights whole, and is sent one gathered weight at a "
        "time. Remove the flag.",
    )
    require(
        not config.reuse_rollout_logprobs or name == "native",
        f"{reuse}: {backend} {name} shows no hidden states. Remove one of the two.",
    )
    require(
        not config.reuse_rollout_logprobs
        or config.actor_zero_stage < 3
        or config.enable_zero3_generation_gather,
        f"{reuse} with {flag('actor_zero_stage')} 3 needs the whole actor while it samples: add "
        f"{gather}, or remove the flag.",
    )
