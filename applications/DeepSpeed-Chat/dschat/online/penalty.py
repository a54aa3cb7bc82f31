"""The penalty of an online run, made for its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dschat.data.ends import ends_of
from dschat.errors import UserError
from dschat.models.references import FrozenPolicy
from dschat.regularization import (
    MixtureReference,
    MultiReference,
    NoPenalty,
    PolicyRegularizer,
    regularizer_from_config,
)
from dschat.runtime import distributed
from dschat.runtime.run_files import data_folder
from dschat.scoring.token_table import token_table
from dschat.settings.online import OnlineConfig
from dschat.settings.penalties import REGULARIZERS
from dschat.settings.regularizers.ground import GroundSettings


def build_penalty(
    config: OnlineConfig, references: Sequence[FrozenPolicy], tokenizer: Any, device: torch.device
) -> tuple[PolicyRegularizer, PolicyRegularizer]:
    """The regularizer from one reference, and that over all references of the run.

    Without a reference both are `NoPenalty`.

    Raises:
        UserError: (on all ranks) its settings cannot be used with this model.
    """
    if not references:
        return NoPenalty(), NoPenalty()
    with references[0].on_device() as reference:
        penalty = config.penalty
        if isinstance(penalty, GroundSettings):
            embeddings = token_table(penalty, reference.model, tokenizer, device, config.seed)
        else:
            embeddings = reference.model.get_input_embeddings().weight.detach().to(device)
        if config.reference_schedule != "fixed":
            # The metric between tokens stays what it is, also in a resumed run.
            embeddings = embeddings.clone()
        single = build_regularizer(config, embeddings, tokenizer)
    return single, over_references(single, config)


def build_regularizer(
    config: OnlineConfig, embeddings: torch.Tensor, tokenizer: Any
) -> PolicyRegularizer:
    """The regularizer from one reference, of the registered class that the settings name.

    One rank of each node builds what is cached, the others read it.

    Args:
        embeddings: [V, H] of the reference, on the device of training, see `token_table`.

    Raises:
        UserError: (on all ranks) its settings cannot be used with this model.
    """
    target = REGULARIZERS[config.regularizer].load()

    def build() -> PolicyRegularizer:
        return regularizer_from_config(
            config,
            token_embeddings=embeddings,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends_of(tokenizer).ids,
            cache_dir=data_folder(config) / "nearest_tokens",
            writes=distributed.is_first_of_node(),
            progress=_progress,
            target=target,
        )

    built, failure = None, None
    if distributed.is_first_of_node():
        try:
            built = build()
        except (ValueError, OSError) as error:
            failure = str(error)
    failure = distributed.first_failure(failure)
    if failure is not None:
        raise UserError(f"The penalty {config.regularizer!r} cannot be made: {failure}")
    return built if built is not None else build()


def over_references(regularizer: PolicyRegularizer, config: OnlineConfig) -> PolicyRegularizer:
    """The regularizer itself for one reference; for several its weighted sum over them.

    Where the settings ask for it, the divergence from the references' mixture instead.
    """
    weights = [weight for _, weight in config.references()]
    if len(weights) <= 1:
        return regularizer
    kind = MixtureReference if config.of_mixture else MultiReference
    return kind(regularizer, weights)


def _progress(total: int) -> Any:
    """A bar on the main rank's screen, where the work takes more than two seconds."""
    from tqdm import tqdm

    what = "nearest tokens of new tokens"
    return tqdm(total=total, desc=what, disable=not distributed.is_main(), delay=2.0, leave=False)
