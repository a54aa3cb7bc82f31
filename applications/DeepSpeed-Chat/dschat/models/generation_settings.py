"""What a model folder's generation_config.json says, so that it loads, saves and tells all ends."""

from __future__ import annotations

import copy
import logging
from typing import Any

from transformers import GenerationConfig

from dschat.data.ends import read_json, saved_ends

logger = logging.getLogger(__name__)

DECIDING = ("do_sample", "num_beams", "return_dict_in_generate", "use_cache")
"""Settings that decide whether others are valid: they are taken first."""
OURS = {"eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}


def generation_settings(path: str, tokenizer: Any) -> GenerationConfig:
    """The folder's settings with the ends and the padding of `tokenizer`.

    transformers loads settings that contradict each other (a temperature without `do_sample`), and
    then refuses to save them with the trained model. Such a setting has no effect, and is left out;
    so is an invalid value.

    Args:
        path: model folder or hub name; without the file its settings are transformers' own.
        tokenizer: from `load_tokenizer`.
    """
    given = read_json(path, "generation_config.json") or {}
    settled = GenerationConfig(
        eos_token_id=saved_ends(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    left_out = []
    for name in sorted(given, key=lambda name: name not in DECIDING):
        if name in OURS or name.startswith("_"):
            continue
        trial = copy.deepcopy(settled)
        try:
            setattr(trial, name, given[name])
            trial.validate(strict=True)
        except Exception:  # of many kinds: values may have any type
            left_out.append(f"{name} {given[name]!r}")
        else:
            settled = trial
    if left_out:
        logger.warning(
            "%s: generation_config.json has settings that are invalid or have no effect beside the "
            "others; they are left out of what is saved: %s",
            path,
            ", ".join(left_out),
        )
    return settled


def settle_generation_config(model: Any, tokenizer: Any) -> None:
    """Give a model the ends and the padding of `tokenizer`, before it is saved with it."""
    if model.can_generate():
        model.generation_config.eos_token_id = saved_ends(tokenizer)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
