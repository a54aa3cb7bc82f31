"""DeepSpeed-Chat's reward checkpoint -> an `AutoModelForSequenceClassification` folder.

    python -m dschat.models.convert_reward_model OLD_FOLDER NEW_FOLDER

OLD_FOLDER holds config.json (of the base model), the tokenizer's files and pytorch_model.bin with
the weights rwtransformer.* (or rwtranrsformer.*) and v_head.weight. The scores stay the same: the
head reads the last token's state in both formats, and neither has a bias. Where DeepSpeed-Chat was
run with an end token that pads as well, it read the token before the end; the new folder is read
at the end like all others, and has another padding token.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dschat.errors import UserError
from dschat.models.loading import check_complete, load_pretrained
from dschat.models.score_reading import HEAD, WEIGHTS_FILE, as_reward_model, is_v_head, read_weights
from dschat.runtime.files import atomic_directory
from dschat.runtime.script import run_script
from dschat.settings.command_line import require

# Misspelt in the code that wrote most of these checkpoints.
BODY = re.compile(r"^(module\.)?rwtran\w*former\.")
# Constants that older versions of transformers saved and newer ones compute.
COMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|position_ids)$")


def convert(old: Path, new: Path, tokenizer: str | None = None) -> None:
    """Write the folder `new` from the checkpoint in `old`, which is only read.

    Args:
        tokenizer: folder or hub name of the tokenizer, where `old` has none that can be loaded.

    Raises:
        UserError: `old` is no such checkpoint, its weights are not those of its config, its
            tokenizer cannot be loaded, or `new` is there or cannot be written.
    """
    from transformers import AutoConfig, AutoTokenizer

    file = old / WEIGHTS_FILE
    require(file.is_file(), f"{old} has no {WEIGHTS_FILE}; expected a DeepSpeed-Chat checkpoint.")
    require(not new.exists(), f"{new} is there already; give the name of a new folder.")
    config = load_pretrained(AutoConfig, str(old), "OLD_FOLDER")
    encoder = load_pretrained(AutoTokenizer, tokenizer or str(old), "tokenizer")
    weights = {name.removeprefix("module."): w for name, w in read_weights(file).items()}
    require(
        is_v_head(weights),
        f"{file} has no {HEAD} (it has {', '.join(list(weights)[:3])}, ...): it is not a reward "
        "model of DeepSpeed-Chat. A Hugging Face classifier needs no conversion.",
    )
    body = {BODY.sub("", name): w for name, w in weights.items() if BODY.match(name)}
    encoder = as_reward_model(config, encoder)
    model = build(config, body, weights[HEAD], file)
    with atomic_directory(new) as folder:
        model.save_pretrained(folder)
        encoder.save_pretrained(folder)


def build(config: Any, body: dict[str, Tensor], head: Tensor, file: Path) -> Any:
    """The classifier.

    Args:
        config: of the base model; gets one label, and as many tokens as there are embeddings.
        body: the base model's weights by its own names. head: [1, H].

    Raises:
        UserError: names the weights that are missing or left over.
    """
    from transformers import AutoModelForSequenceClassification

    config.num_labels = 1
    with torch.device("meta"):
        shell = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    embeddings = shell.get_input_embeddings().weight
    base = getattr(shell, shell.base_model_prefix)
    name = next(n for n, p in base.named_parameters() if p is embeddings)
    if name in body:
        # DeepSpeed-Chat rounds the number of tokens up to a multiple of 8.
        config.vocab_size = body[name].shape[0]
    model = AutoModelForSequenceClassification.from_config(
        config, dtype=head.dtype, trust_remote_code=False
    )
    require(
        hasattr(model, "score") and tuple(model.score.weight.shape) == tuple(head.shape),
        f"{file}: {HEAD} is {list(head.shape)}, which does not fit {type(model).__name__}.",
    )
    try:
        found = getattr(model, model.base_model_prefix).load_state_dict(body, strict=False)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit its config.json: {error}") from error
    check_complete([n for n in found.missing_keys if not COMPUTED.search(n)], str(file))
    left = [n for n in found.unexpected_keys if not COMPUTED.search(n)]
    require(
        not left,
        f"{file} does not fit its config.json ({config.model_type}), which has no "
        f"{', '.join(left[:5])}.",
    )
    with torch.no_grad():
        model.score.weight.copy_(head)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `convert`."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.models.convert_reward_model",
        description="Convert a reward checkpoint of DeepSpeed-Chat (v_head) into a Hugging Face "
        "sequence classifier.",
    )
    parser.add_argument("old_folder", type=Path, metavar="OLD_FOLDER", help="is only read")
    parser.add_argument("new_folder", type=Path, metavar="NEW_FOLDER", help="must not exist")
    parser.add_argument(
        "--tokenizer", help="folder or hub name, where OLD_FOLDER has no tokenizer of its own"
    )
    args = parser.parse_args(argv)
    convert(args.old_folder, args.new_folder, args.tokenizer)
    print(f"Written: {args.new_folder}, for --reward-model or --critic_model_name_or_path.")


if __name__ == "__main__":
    run_script(main)
