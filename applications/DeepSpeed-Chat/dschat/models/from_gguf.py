"""A GGUF file -> a plain Hugging Face model folder in float32.

    python -m dschat.models.from_gguf FILE FOLDER

FILE is a language model of any architecture whose GGUF files transformers reads; it needs the
package gguf. The weights are those of FILE: where it is quantised they are the rounded ones, and
the folder is not the model that FILE was made from.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dschat.errors import UserError
from dschat.models.loading import check_complete
from dschat.models.score_reading import LOADING_ERRORS
from dschat.runtime.files import atomic_directory
from dschat.runtime.script import run_script
from dschat.settings.command_line import require

MAGIC = b"GGUF"
TOKENS = "tokenizer.ggml.tokens"
# Ids that end a turn or a message, beside the tokenizer's own end token.
END_FIELDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def convert(file: Path, folder: Path) -> None:
    """Write the folder `folder` (config, weights, tokenizer with chat template, generation config).

    It appears complete or not at all. Memory: up to two float32 copies of the weights.

    Raises:
        UserError: `file` is no GGUF file that transformers can read as a language model, it lacks
            weights, the package gguf is missing, or `folder` is there or cannot be written.
    """
    check_file(file)
    require(not folder.exists(), f"{folder} is there already; give the name of a new folder.")
    require(
        importlib.util.find_spec("gguf") is not None,
        "Reading GGUF files needs the package gguf, which is not installed: pip install gguf.",
    )
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
        tokenizer = read_tokenizer(file, fields)
        model = read_model(file)
    except (*LOADING_ERRORS, KeyError, NotImplementedError, IndexError, struct.error) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{file} cannot be read as a language model: {reason}.") from error
    rows = model.get_input_embeddings().weight.shape[0]
    require(
        len(tokenizer) <= rows,
        f"{file}: its tokenizer has {len(tokenizer)} tokens but its model {rows} embedding rows.",
    )
    set_ends(model, tokenizer, end_ids(fields, tokenizer))
    with atomic_directory(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def check_file(file: Path) -> None:
    """Refuse what is not a GGUF file.

    Raises:
        UserError: says what it is instead.
    """
    require(file.is_file(), f"{file} is no file; give a model file in the GGUF format.")
    with open(file, "rb") as stream:
        begin = stream.read(len(MAGIC))
    require(
        begin == MAGIC,
        f"{file} is no GGUF file: it begins with {begin!r}, expected {MAGIC!r}.",
    )


def read_tokenizer(file: Path, fields: dict[str, Any]) -> Any:
    """The tokenizer, with a padding token: the file's, else the unknown token, else the end token.

    Raises:
        UserError: it names no end token.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(file.parent), gguf_file=file.name, trust_remote_code=False
    )
    require(tokenizer.eos_token_id is not None, f"{file}: its tokenizer names no end token.")
    drop_foreign_tokens(tokenizer, len(fields[TOKENS].data))
    for name in ("is_local", "local_files_only"):  # how it was loaded here
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def drop_foreign_tokens(tokenizer: Any, size: int) -> None:
    """Leave `size` tokens: transformers adds GPT-2's <|endoftext|> to vocabularies without it.

    It would have no embedding.
    """
    from tokenizers import Tokenizer

    if len(tokenizer) <= size:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def read_model(file: Path) -> Any:
    """The language model in float32, on the CPU, as if it had never been quantised.

    Raises:
        UserError: weights are missing, which transformers would make up.
    """
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    loaded, info = loader.from_pretrained(
        str(file.parent),
        gguf_file=file.name,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
    )
    check_complete(info["missing_keys"], str(file))
    config = loaded.config
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    # A model that remembers GGUF refuses to be saved; a new one takes its weights without a copy.
    with torch.device("meta"):
        model = loader.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    return model


def end_ids(fields: dict[str, Any], tokenizer: Any) -> list[int]:
    """The ids that end a response: the tokenizer's end token first, then the file's other ones."""
    ids = [tokenizer.eos_token_id]
    ids += [int(fields[name].contents()) for name in END_FIELDS if name in fields]
    return list(dict.fromkeys(ids))


def set_ends(model: Any, tokenizer: Any, ends: list[int]) -> None:
    """Make the configs of model and generation, and the tokenizer's length limit, agree."""
    from transformers import GenerationConfig

    config = model.config
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.model_max_length = getattr(config, "max_position_embeddings", 10**30)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `convert`."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.models.from_gguf",
        description="Convert a GGUF file into a plain Hugging Face model folder in float32.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="is only read")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="must not exist")
    args = parser.parse_args(argv)
    convert(args.file, args.folder)
    print(f"Written: {args.folder}, a model folder for any script.")


if __name__ == "__main__":
    run_script(main)
