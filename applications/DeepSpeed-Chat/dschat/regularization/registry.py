"""From settings to a regulariser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dschat.regularization.base import PolicyRegularizer, with_defaults
from dschat.regularization.divergences import PUBLISHED_REWARD_CLIP, FDivergence, KLDivergence
from dschat.regularization.sinkhorn import SinkhornDivergence
from dschat.regularization.transport.nearest_table import Progress
from dschat.regularization.wasserstein import TruncatedWasserstein


@dataclass(frozen=True)
class ModelParts:
    """What a regulariser may need besides its settings.

    Attributes:
        token_embeddings: [V, D], input embeddings of the frozen reference model.
        pad_token_id, eos_token_id: of the tokenizer.
        cache_dir: folder for tables; None keeps them in memory only.
        writes: add to that folder, not only read it.
        progress: shows how far long work is.
    """

    token_embeddings: Tensor | None = None
    pad_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    cache_dir: str | Path | None = None
    writes: bool = True
    progress: Progress | None = None

    def embeddings_for(self, name: str) -> Tensor:
        """The embeddings, or ValueError naming the regulariser that lacks them."""
        if self.token_embeddings is None:
            raise ValueError(
                f"the regulariser {name!r} was given no token embeddings, expected a matrix "
                "[V, D]: pass the reference model's input embedding weight"
            )
        return self.token_embeddings


Factory = Callable[[Any, ModelParts], PolicyRegularizer]
_FACTORIES: dict[str, Factory] = {}


def register(name: str) -> Callable[[Factory], Factory]:
    """Decorator that makes ``factory(config, parts)`` available under ``name``.

    Raises:
        ValueError: if the name is taken.
    """

    def add(factory: Factory) -> Factory:
        if name in _FACTORIES:
            raise ValueError(
                f"given a second regulariser named {name!r}, expected a new name: taken are "
                f"{', '.join(registered_names())}"
            )
        _FACTORIES[name] = factory
        return factory

    return add


def registered_names() -> list[str]:
    """Names that ``regularizer_from_config`` knows, sorted."""
    return sorted(_FACTORIES)


def regularizer_from_config(
    config: Any,
    token_embeddings: Tensor | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    cache_dir: str | Path | None = None,
    writes: bool = True,
    progress: Progress | None = None,
) -> PolicyRegularizer:
    """Build the regulariser that ``config.regularizer`` names.

    Args:
        config: any object with the attribute ``regularizer`` and those the named one reads:
            ``kl`` kl_estimator; ``f_divergence`` f_div, f_div_alpha, f_div_form, f_div_low_var and
            kl_estimator; ``wasserstein`` transport (``published`` or ``sinkhorn_divergence``),
            cost_dim, cost_type, epsilon, max_iter, tol, top_k, normalize and block_size;
            ``sinkhorn_divergence`` top_k, epsilon, max_iter, tol and cost_type. An
            attribute that is absent or None stands for the regulariser's own default.
        token_embeddings: [V, D], needed by regularisers that know distances between tokens.
        pad_token_id, eos_token_id: of the tokenizer.
        cache_dir: folder for tables that are worth keeping.
        writes: add to that folder, not only read it: one process of each node does.
        progress: shows how far long work is: steps -> a context with a bar, as of `tqdm`.

    Raises:
        ValueError: on an unknown name (the message lists the known ones) or unusable settings.
    """
    name = config.regularizer
    if name not in _FACTORIES:
        raise ValueError(
            f"given regulariser {name!r}, expected one of {', '.join(registered_names())}"
        )
    parts = ModelParts(token_embeddings, pad_token_id, eos_token_id, cache_dir, writes, progress)
    return with_defaults(_FACTORIES[name](config, parts))


def _given(config: Any, *pairs: tuple[str, str]) -> dict[str, Any]:
    """Keyword arguments from (attribute, keyword) pairs, without those that are absent or None."""
    values = {keyword: getattr(config, attribute, None) for attribute, keyword in pairs}
    return {keyword: value for keyword, value in values.items() if value is not None}


@register("kl")
def _kl(config: Any, parts: ModelParts) -> PolicyRegularizer:
    return KLDivergence(**_given(config, ("kl_estimator", "estimator")))


@register("f_divergence")
def _f_divergence(config: Any, parts: ModelParts) -> PolicyRegularizer:
    options = _given(
        config,
        ("f_div", "name"),
        ("f_div_alpha", "alpha"),
        ("f_div_form", "form"),
        ("f_div_low_var", "low_variance"),
    )
    options.setdefault("name", "rkl")
    estimator = getattr(config, "kl_estimator", None)
    if options["name"] == "rkl" and not options.get("low_variance"):
        # The log-ratio is both the value and the gradient form of the reverse KL.
        if options.get("form") == "gradient":
            return KLDivergence(estimator or "k1")
        if estimator in ("k1", "k2", "k3"):
            return KLDivergence(estimator, reward_clip=PUBLISHED_REWARD_CLIP)
    elif estimator in ("k2", "k3"):
        raise ValueError(
            f"given --kl_estimator {estimator} with --f_div {options['name']}"
            f"{' --f_div_low_var' if options.get('low_variance') else ''}, expected it with the "
            "plain reverse KL only: drop it, the divergence is summed over the vocabulary here"
        )
    return FDivergence(**options)


@register("wasserstein")
def _wasserstein(config: Any, parts: ModelParts) -> PolicyRegularizer:
    transport = getattr(config, "transport", None) or "published"
    if transport == "sinkhorn_divergence":
        return _sinkhorn_divergence(config, parts)
    if transport != "published":
        raise ValueError(
            f"given transport {transport!r}, expected one of published, sinkhorn_divergence"
        )
    names = ("cost_dim", "cost_type", "epsilon", "max_iter", "tol", "top_k")
    return TruncatedWasserstein(
        parts.embeddings_for("wasserstein"),
        pad_token_id=parts.pad_token_id,
        eos_token_id=parts.eos_token_id,
        cache_dir=parts.cache_dir,
        writes=parts.writes,
        progress=parts.progress,
        **_given(config, *((name, name) for name in (*names, "normalize", "block_size"))),
    )


@register("sinkhorn_divergence")
def _sinkhorn_divergence(config: Any, parts: ModelParts) -> PolicyRegularizer:
    if getattr(config, "normalize", False):
        raise ValueError(
            "given --normalize with the Sinkhorn divergence, expected it with the published "
            "transport only: its potentials need no centring, drop the flag"
        )
    names = ("top_k", "epsilon", "max_iter", "tol", "cost_type")
    return SinkhornDivergence(
        parts.embeddings_for("sinkhorn_divergence"),
        **_given(config, *((name, name) for name in names)),
    )
