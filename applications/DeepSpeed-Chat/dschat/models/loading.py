"""Tokenizers and models from Hugging Face folders (or hub names where there is a network).

Nothing from a checkpoint is ever executed: no remote code, and only safe loaders of weights.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig

from dschat.data.ends import read_json, saved_ends, set_ends_of, special_ids
from dschat.errors import UserError
from dschat.models.dropout import configure_dropout, set_dropout
from dschat.models.score_reading import (
    LOADING_ERRORS,
    check_not_v_head,
    padding_apart,
    reading,
    set_padding,
)
from dschat.settings.command_line import require

logger = logging.getLogger(__name__)

DECIDING = ("do_sample", "num_beams", "return_dict_in_generate", "use_cache")
"""Settings that decide whether others are valid: they are taken first."""
OURS = {"eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}


def generation_settings(path: str, tokenizer: Any) -> GenerationConfig:
    """The folder's settings with the ends and the padding of `tokenizer`.

    transformers loads settings that contradict each other (a temperature without `do_sample`), and
    then refuses to save them with the trained model. Such a setting has no effect, and is dropped;
    so is an invalid value.

    Args:
        path: model folder or hub name; without the file its settings are transformers' own.
        tokenizer: from `load_tokenizer`.
    """
    given = read_json(path, "generation_config.json") or {}
    settings = GenerationConfig(
        eos_token_id=saved_ends(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    left_out = []
    for name in sorted(given, key=lambda name: name not in DECIDING):
        if name in OURS or name.startswith("_"):
            continue
        trial = copy.deepcopy(settings)
        try:
            setattr(trial, name, given[name])
            trial.validate(strict=True)
        except Exception:  # of many kinds: values may have any type
            left_out.append(f"{name} {given[name]!r}")
        else:
            settings = trial
    if left_out:
        logger.warning(
            "%s: generation_config.json has settings that are invalid or have no effect beside the "
            "others; they are not saved: %s",
            path,
            ", ".join(left_out),
        )
    return settings


def set_generation_ends(model: Any, tokenizer: Any) -> None:
    """Give a model the ends and the padding of `tokenizer`, before it is saved with it."""
    if model.can_generate():
        model.generation_config.eos_token_id = saved_ends(tokenizer)
        model.generation_config.pad_token_id = tokenizer.pad_token_id


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def resolve_dtype(name: str | None, device: torch.device, flag: str = "dtype") -> torch.dtype:
    """The training dtype: bf16 on a GPU that has it and fp32 elsewhere unless named.

    Args:
        name: "fp32", "bf16", "fp16" or None (choose).
        device: where the model will run.
        flag: the flag that gave `name`, for messages.

    Raises:
        UserError: fp16 on CPU, bf16 on a GPU without it, or an unknown name.
    """
    has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name is None:
        return torch.bfloat16 if device.type == "cuda" and has_bf16 else torch.float32
    if name not in DTYPES:
        raise UserError(f"--{flag} {name!r} is unknown; expected one of {', '.join(DTYPES)}.")
    if name == "fp16" and device.type == "cpu":
        raise UserError(f"--{flag} fp16 needs a GPU; on CPU use --{flag} fp32 or --{flag} bf16.")
    if name == "bf16" and not has_bf16:
        raise UserError(f"--{flag} bf16: this GPU does not have it; use --{flag} fp16 or fp32.")
    return DTYPES[name]


def check_model_path(path: str, flag: str) -> None:
    """Refuse a path that is neither a model folder nor a possible hub name.

    Args:
        path: what the user gave.
        flag: the flag's name, for the message.
    """
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            inside = sorted(p.name for p in Path(path).iterdir())[:8]
            raise UserError(
                f"--{flag} {path}: the folder has no config.json (it holds: "
                f"{', '.join(inside) or 'nothing'}). Give a Hugging Face model folder, for "
                "example the output folder of an earlier step."
            )
        return
    if Path(path).exists():
        raise UserError(f"--{flag} {path}: this is a file; expected a Hugging Face model folder.")
    looks_like_a_hub_name = path.count("/") <= 1 and not path.startswith((".", "/", "~"))
    if not looks_like_a_hub_name:
        raise UserError(
            f"--{flag} {path}: no such folder (looked in {os.getcwd()}). Give a Hugging Face "
            "model folder or a hub name such as google/gemma-2b."
        )


def why_not_loaded(path: str, error: BaseException) -> str:
    """The reason, without a full stop.

    Args:
        path: folder or hub name.
        error: what transformers raised. Its own advice on code (`trust_remote_code`, a reader that
            runs pickles) is not repeated: there is no such setting here.
    """
    text = str(error).strip()
    if "trust_remote_code" in text:
        return (
            "it brings code of its own (auto_map in its config.json or tokenizer_config.json), "
            "which is never run here. Give a model of a type that transformers knows by itself"
        )
    if "Weights only load failed" in text:
        return (
            "its weights are a pickle that would run code, which is never done here. Give"
            " a copy of the model in the safetensors format, from a source you trust"
        )
    if isinstance(error, SafetensorError):
        return f"its file of weights is damaged ({text}). Copy or download the model again"
    if "ignore_mismatched_sizes" in text:
        return (
            "its weights have other shapes than its config.json says. Give a folder as a training "
            "run or the hub has written it"
        )
    if "backend tokenizer" in text:
        return (
            "there is no tokenizer in it that can be read (tokenizer.json, tokenizer.model or "
            "vocab.json). Copy those files of the model that it was trained from into the folder"
        )
    where = (
        "the folder cannot be read as a Hugging Face model"
        if Path(path).is_dir()
        else "no such local folder, and it could not be fetched from the Hugging Face hub"
    )
    return f"{where} ({text.splitlines()[0] if text else repr(error)})"


def load_pretrained(loader: Any, path: str, flag: str, **options: Any) -> Any:
    """`loader.from_pretrained` with failures as `UserError`."""
    check_model_path(path, flag)
    try:
        return loader.from_pretrained(path, trust_remote_code=False, **options)
    except (*LOADING_ERRORS, KeyError) as error:
        raise UserError(f"--{flag} {path}: {why_not_loaded(path, error)}.") from error


def load_tokenizer(
    path: str,
    flag: str = "model_name_or_path",
    end_of_conversation_token: str | None = None,
    add_eot_token: bool = False,
    pad_token: str | None = None,
) -> Any:
    """A tokenizer whose `eos_token` ends a response and whose `pad_token` exists.

    What else ends one: `dschat.data.ends.ends_of`.

    Args:
        path: model folder or hub name.
        flag: the flag that gave `path`, for messages.
        end_of_conversation_token: put behind every response; None takes the model's own.
        add_eot_token: add `end_of_conversation_token` to the vocabulary if it is not there.
        pad_token: a token to pad with, where the tokenizer names none.

    Raises:
        UserError: no such tokenizer, or no usable pad or end token; says what to give.
    """
    from transformers import AutoTokenizer

    tokenizer = load_pretrained(AutoTokenizer, path, flag)
    is_new = False
    if end_of_conversation_token is not None:
        vocabulary = tokenizer.get_vocab()
        if end_of_conversation_token not in vocabulary:
            if not add_eot_token:
                own = f" (its own end token is {tokenizer.eos_token!r})" * bool(tokenizer.eos_token)
                raise UserError(
                    f"--end_of_conversation_token {end_of_conversation_token!r} is not a token of "
                    f"{path}{own}. Leave the flag out to use the tokenizer's own, or add "
                    "--add_eot_token (in steps 1 to 3) to add it to the vocabulary."
                )
            tokenizer.add_special_tokens({"additional_special_tokens": [end_of_conversation_token]})
            is_new = True
    set_ends_of(tokenizer, path, end_of_conversation_token, is_new)
    if tokenizer.eos_token is None:
        raise UserError(
            f"The tokenizer of {path} has no end-of-sequence token. Name one of its tokens with "
            "--end_of_conversation_token (with --add_eot_token to add a new one)."
        )
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"--pad_token {pad_token!r} is not a token of {path}.")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token is None:
        suggestion = padding_apart(tokenizer) or tokenizer.eos_token
        raise UserError(
            f"The tokenizer of {path} has no padding token. Name one of its tokens with "
            f"--pad_token, for example --pad_token {suggestion!r}."
        )
    return tokenizer


def _load_config(path: str, flag: str, tokenizer: Any, dropout: float | None) -> Any:
    from transformers import AutoConfig

    config = load_pretrained(AutoConfig, path, flag)
    configure_dropout(config, dropout)
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    return config


def fit_vocabulary(model: Any, tokenizer: Any, path: str, may_grow: bool) -> None:
    """Make sure that every token id has an embedding row.

    New rows are added only where the user added a token (`may_grow`). Special tokens of the folder
    itself may lack one: the tokenizer of Gemma 3's text models has one for images.
    """
    weight = model.get_input_embeddings().weight
    rows = getattr(weight, "ds_shape", weight.shape)[0]  # ZeRO 3 empties the shape itself
    if len(tokenizer) <= rows:
        return
    if not may_grow:
        beyond = {i for i in tokenizer.get_vocab().values() if i >= rows}
        if beyond <= special_ids(tokenizer):
            return
        raise UserError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens but the model has {rows} embedding "
            "rows. Model and tokenizer do not belong together; use the folder of one model (or "
            "--add_eot_token, if the difference is the end token that you add)."
        )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=True)


def load_causal_lm(
    path: str,
    tokenizer: Any,
    dtype: torch.dtype,
    flag: str = "model_name_or_path",
    dropout: float | None = None,
    may_grow: bool = False,
    quantization: str | None = None,
    device: torch.device | None = None,
) -> Any:
    """An `AutoModelForCausalLM` on CPU in `dtype`, its vocabulary checked against the tokenizer.

    Args:
        quantization: "8bit" or "4bit": linear layers but the last by bitsandbytes, for a model that
            is not trained; it is loaded onto `device`.

    Raises:
        UserError: the path is no such model, or tokenizer and embeddings do not fit.
    """
    from transformers import AutoModelForCausalLM

    config = _load_config(path, flag, tokenizer, dropout)
    options: dict[str, Any] = {}
    if quantization is not None:
        options = {"quantization_config": _quantization(quantization, dtype), "device_map": device}
    options["generation_config"] = generation_settings(path, tokenizer)
    model, info = load_pretrained(
        AutoModelForCausalLM,
        path,
        flag,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
    if quantization is None:  # quantised layers have other names
        check_complete(
            info["missing_keys"],
            f"--{flag} {path}: the checkpoint",
            " Reward models and other classifiers are no language models: give the output folder "
            "of step 1, or a model for text generation.",
        )
    fit_vocabulary(model, tokenizer, path, may_grow)
    set_dropout(model, dropout)
    return model


def check_complete(missing: Iterable[str], where: str, advice: str = "") -> None:
    """Refuse a checkpoint that lacks weights: transformers would initialise them at random.

    Args:
        missing: their names. where: names the checkpoint. advice: what to do.

    Raises:
        UserError: says how many and the first names.
    """
    names = sorted(missing)
    if names:
        raise UserError(
            f"{where} lacks {len(names)} of the model's weights ({', '.join(names[:3])}), which "
            f"would be random.{advice}"
        )


def _quantization(name: str, dtype: torch.dtype) -> Any:
    """bitsandbytes' settings for "8bit" or "4bit" (NF4)."""
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"--reference_quantization {name} needs the package bitsandbytes, which is not "
            "installed: pip install bitsandbytes, or remove the flag."
        )
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def load_reward_model(
    path: str,
    tokenizer: Any,
    dtype: torch.dtype,
    flag: str = "model_name_or_path",
    dropout: float | None = None,
    head_may_be_new: bool = False,
    may_grow: bool = False,
    new_head_is_zero: bool = False,
) -> Any:
    """An `AutoModelForSequenceClassification` with one output: a reward model or a critic.

    Its attribute `skipped_token` is that of the folder's `Reading`.

    Args:
        head_may_be_new: True in step 2, where the head is trained; otherwise a checkpoint without
            a score head is refused, because its scores would be random.
        new_head_is_zero: a head that the checkpoint has not got gives 0 everywhere: a critic that
            knows nothing yet.

    Raises:
        UserError: the path is no reward model, or tokenizer and embeddings do not fit.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_not_v_head(path, flag)
    on_disk = load_pretrained(AutoConfig, path, flag)
    config = _load_config(path, flag, tokenizer, dropout)
    # Not the end token: transformers does not train the embedding of the padding token.
    set_padding(config, tokenizer)
    is_classifier = any("Classification" in name for name in config.architectures or [])
    if is_classifier and config.num_labels != 1:
        raise UserError(
            f"--{flag} {path}: the classifier has {config.num_labels} outputs; a reward model "
            "has one."
        )
    config.num_labels = 1
    model, info = load_pretrained(
        AutoModelForSequenceClassification,
        path,
        flag,
        config=config,
        dtype=dtype,
        output_loading_info=True,
    )
    missing = [name for name in info["missing_keys"] if "score" in name or "classifier" in name]
    if missing and not head_may_be_new:
        raise UserError(
            f"--{flag} {path}: the checkpoint has no reward head ({', '.join(missing)} missing), "
            "so it is not a reward model. Give the output of step 2 (output_dir/step_N)."
        )
    if missing and new_head_is_zero:
        torch.nn.init.zeros_(model.score.weight)
    model.skipped_token = None
    if not head_may_be_new:
        model.skipped_token = reading(path, on_disk, tokenizer.eos_token_id).skipped
    fit_vocabulary(model, tokenizer, path, may_grow)
    set_dropout(model, dropout)
    return model


def check_same_vocabulary(tokenizer: Any, other: Any, path: str, other_path: str) -> None:
    """Refuse two models whose token ids do not mean the same tokens.

    Raises:
        UserError: names the first tokens that differ.
    """
    mine, theirs = tokenizer.get_vocab(), other.get_vocab()
    if mine == theirs:
        return
    differing = sorted(set(mine.items()) ^ set(theirs.items()), key=lambda item: item[1])[:5]
    examples = ", ".join(f"{token!r} (id {index})" for token, index in differing)
    raise UserError(
        f"{path} and {other_path} have different vocabularies ({len(mine)} and {len(theirs)} "
        f"tokens; for example {examples}). Policy, references and critic must share one tokenizer."
    )


def check_context(model_config: Any, tokens: int, flags: str) -> None:
    """Refuse texts of more tokens than the model has positions for.

    Models with learned positions would fail in the middle of training (on a GPU with an assertion
    that names nothing); those with rotary ones were never trained so far out.

    Args:
        model_config: a transformers config; without `max_position_embeddings` there is no limit.
        tokens: the longest text that can come.
        flags: what decides it, for the message: "--a 2 + --b 3", or one flag.

    Raises:
        UserError: says both numbers.
    """
    limit = getattr(model_config, "max_position_embeddings", None)
    require(
        limit is None or tokens <= limit,
        f"{flags}: texts of up to {tokens} tokens, but the model's context is {limit}. Lower "
        f"{'one of the two' if '+' in flags else 'it'}.",
    )
