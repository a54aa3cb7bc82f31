"""Why a model or a tokenizer could not be loaded, in words that a user can act on."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError


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
            "its weights are no mere tensors but a pickle that calls for code, which is never run "
            "here. Give a copy of the model in the safetensors format, from a source you trust"
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
