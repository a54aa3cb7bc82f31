"""From settings to a regulariser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dschat.regularization.base import PolicyRegularizer, with_defaults
from dschat.regularization.divergences import PUBLISHED_REWARD_CLIP, FDivergence, KLDivergence
from dschat.regularization.ground.nearest_table import Progress
from dschat.regularization.semantic.energy_distance import EnergyDistance
from dschat.regularization.semantic.kernel_mmd import KernelMMD
from dschat.regularization.semantic.smoothed_kl import SmoothedKL
from dschat.regularization.sinkhorn import SinkhornDivergence
from dschat.regularization.wasserstein import TruncatedWasserstein


def kl(kl_estimator: str = "k1", kl_type: str = "rkl") -> PolicyRegularizer:
    """The reverse KL, or the forward KL with the gradient of the divergence itself."""
    if kl_type == "fkl":
        return FDivergence("fkl", form="gradient")
    return KLDivergence(kl_estimator)


def f_divergence(
    f_div: str = "rkl",
    f_div_alpha: float = 0.5,
    f_div_form: str = "value",
    f_div_low_var: bool = False,
    kl_estimator: str | None = None,
) -> PolicyRegularizer:
    """An f-divergence; the plain reverse KL with the estimator that was asked for.

    Raises:
        ValueError: on options that would have no meaning.
    """
    if f_div == "rkl" and not f_div_low_var:
        # The log-ratio is both the value and the gradient form of the reverse KL.
        if f_div_form == "gradient":
            return KLDivergence(kl_estimator or "k1")
        if kl_estimator in ("k1", "k2", "k3"):
            return KLDivergence(kl_estimator, reward_clip=PUBLISHED_REWARD_CLIP)
    elif kl_estimator in ("k2", "k3"):
        raise ValueError(
            f"given --kl_estimator {kl_estimator} with --f_div {f_div}"
            f"{' --f_div_low_var' if f_div_low_var else ''}, expected it with the plain reverse KL "
            "only: drop it, the divergence is summed over the vocabulary here"
        )
    return FDivergence(f_div, f_div_alpha, f_div_form, f_div_low_var)


def smoothed_kl(
    token_embeddings: Tensor,
    smoothing_neighbours: int = 32,
    smoothing_temperature: float = 0.1,
    cost_type: str = "cos",
    cost_components: int = 10,
    cost_power: float | None = None,
    cost_saturation: float | None = None,
    cache_dir: str | Path | None = None,
    writes: bool = True,
    progress: Progress | None = None,
) -> PolicyRegularizer:
    """`SmoothedKL`; a run's own temperature is that of sampling."""
    return SmoothedKL(
        token_embeddings,
        smoothing_neighbours,
        smoothing_temperature,
        cost_type,
        cost_components,
        cost_power,
        cost_saturation,
        cache_dir,
        writes,
        progress,
    )


BUILT_IN: dict[str, Callable[..., PolicyRegularizer]] = {
    "kl": kl,
    "f_divergence": f_divergence,
    "wasserstein": TruncatedWasserstein,
    "sinkhorn_divergence": SinkhornDivergence,
    "smoothed_kl": smoothed_kl,
    "kernel_mmd": KernelMMD,
    "energy_distance": EnergyDistance,
}
TRANSPORTS = {"published": "wasserstein", "sinkhorn_divergence": "sinkhorn_divergence"}


def regularizer_from_config(
    config: Any,
    token_embeddings: Tensor | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    cache_dir: str | Path | None = None,
    writes: bool = True,
    progress: Progress | None = None,
    target: Callable[..., Any] | None = None,
) -> PolicyRegularizer:
    """Build the regulariser that ``config.regularizer`` names.

    Its class (or function) is called with what its parameters name: attributes of the configuration
    and the arguments below. What is absent or None is left to the parameter's own default.

    Args:
        config: any object with the attribute ``regularizer`` and those the named one reads:
            ``kl`` kl_estimator and kl_type; ``f_divergence`` f_div, f_div_alpha, f_div_form,
            f_div_low_var and kl_estimator; ``wasserstein`` cost_dim, cost_type, epsilon, max_iter,
            tol, top_k, normalize and block_size (and transport: with the value
            ``sinkhorn_divergence`` it is the next one); ``sinkhorn_divergence`` top_k, epsilon,
            max_iter, tol and cost_type.
        token_embeddings: [V, D], input embeddings of the frozen reference model, needed by
            regularisers that know distances between tokens.
        pad_token_id, eos_token_id: of the tokenizer.
        cache_dir: folder for tables that are worth keeping; None keeps them in memory only.
        writes: add to that folder, not only read it: one process of each node does.
        progress: shows how far long work is: steps -> a context with a bar, as of `tqdm`.
        target: the class of a regulariser that is not built in.

    Raises:
        ValueError: on an unknown name (the message lists the known ones) or unusable settings.
    """
    name = config.regularizer
    transport = getattr(config, "transport", None)
    if name == "wasserstein" and transport is not None:
        if transport not in TRANSPORTS:
            raise ValueError(
                f"given transport {transport!r}, expected one of {', '.join(TRANSPORTS)}"
            )
        name = TRANSPORTS[transport]
    if target is None and name not in BUILT_IN:
        raise ValueError(f"given regulariser {name!r}, expected one of {', '.join(BUILT_IN)}")
    target = target or BUILT_IN[name]
    offered = {
        "token_embeddings": token_embeddings,
        "pad_token_id": pad_token_id,
        "eos_token_id": eos_token_id,
        "cache_dir": cache_dir,
        "writes": writes,
        "progress": progress,
    }
    parameters = inspect.signature(target).parameters
    values = {p: offered.get(p, getattr(config, p, None)) for p in parameters}
    values = {p: value for p, value in values.items() if value is not None}
    for parameter in parameters.values():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if needed and parameter.name not in values:
            raise ValueError(
                f"the regulariser {name!r} was given no {parameter.name}, expected a setting of "
                f"that name or one of {', '.join(offered)}; token_embeddings are the reference "
                "model's input embedding weight [V, D]"
            )
    return with_defaults(target(**values), name)
