"""The references of a run: loaded, checked, and put where they rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from dschat.models.loading import check_context, load_causal_lm
from dschat.models.policy import PolicyModel, check_output_layer
from dschat.models.references import FrozenPolicy, Reference, ReferenceOnDisk
from dschat.settings.online import OnlineConfig
from dschat.settings.regularizers.published import has_references


def load_references(
    config: OnlineConfig, tokenizer: Any, dtype: torch.dtype, device: torch.device
) -> list[FrozenPolicy]:
    """The references that the settings name, or the model that the actor starts from.

    None where the actor itself will be the reference (`reference_is_the_policy`), or nothing is
    compared with one (`--regularizer none`).

    Each is loaded once here even where it rests on disk, so that a bad folder is found at once; a
    folder that is given several times is one object several times in the list.

    Args:
        dtype: of the references.

    Raises:
        UserError: a folder that is no model, a vocabulary or a context that is too small, or
            quantisation without bitsandbytes.
    """
    if config.reference_is_the_policy() or not has_references(config):
        return []
    residency = config.reference_residency or ("cpu" if config.offload_reference_model else "all")
    references: list[FrozenPolicy] = []
    loaded: dict[str, FrozenPolicy] = {}
    for path, name in reference_paths(config):
        place = os.path.realpath(path)
        if place in loaded:
            references.append(loaded[place])
            continue

        def load(path: str = path, name: str = name) -> PolicyModel:
            # One seed, so that rows of a new token are the same as the actor's; loading in the
            # middle of a run must not set back the random numbers of dropout.
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(config.seed)
                model = load_causal_lm(
                    path,
                    tokenizer,
                    dtype,
                    name,
                    may_grow=config.add_eot_token,
                    quantization=config.reference_quantization,
                    device=device,
                )
            return PolicyModel(model, config.temperature)

        policy = load()
        check_length(policy.model.config, config)
        check_output_layer(policy.model)
        if residency == "one":
            references.append(ReferenceOnDisk(load, device, policy.output_layer.vocabulary_size))
        else:
            resting = torch.device("cpu") if residency == "cpu" else None
            references.append(Reference(policy, device, resting))
        loaded[place] = references[-1]
        del policy  # one model at a time in the host's memory
    return references


def reference_paths(config: OnlineConfig) -> list[tuple[str, str]]:
    """The references' model folders, each with the flag that names it (without dashes)."""
    paths = [path for path, _ in config.references()]
    if not paths:
        name = config.flag_name("actor_model_name_or_path")
        return [(str(config.actor_model_name_or_path), name)]
    flags = ["refs"] * len(paths) if config.refs else ["ref_a", "ref_b"]
    return [(path, config.flag_name(flag)) for path, flag in zip(paths, flags, strict=True)]


def check_length(model_config: Any, config: OnlineConfig) -> None:
    """Refuse a model whose context is shorter than prompt and response together."""
    check_context(
        model_config,
        config.max_prompt_seq_len + config.max_answer_seq_len,
        f"{config.flag('max_prompt_seq_len')} {config.max_prompt_seq_len} + "
        f"{config.flag('max_answer_seq_len')} {config.max_answer_seq_len}",
    )


def share_vocabulary(policy: PolicyModel, references: Sequence[FrozenPolicy], tokens: int) -> None:
    """Cut all logits to the tokenizer's tokens, so that the same are possible for all models.

    Rows beyond are padding (models of one tokenizer have different numbers of them). A policy that
    samples such an id has said nothing, and what reads its text sees another response; so they
    have no probability, in sampling, in the policy's and in the references' log-probabilities.

    Args:
        tokens: of the tokenizer, see `tokens_of`. Only special tokens may lack a logit
            (`fit_vocabulary` has looked at every model), and those are never sampled either.
    """
    sizes = [policy.output_layer.vocabulary_size, *(r.vocabulary_size for r in references)]
    tokens = min(tokens, *sizes)
    if max(sizes) > tokens:
        policy.limit_vocabulary(tokens)
        for reference in references:
            reference.limit_vocabulary(tokens)
