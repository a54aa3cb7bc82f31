"""Where a reward model's score is read: at a text's last token, the end token where there is one.

The position comes from the attention mask. transformers' own head looks for the last id that is
not the padding token's: where padding and end token are one it reads the token *before* the end. So
that it reads the same token as we do, no reward model is saved with such a padding token.

Folders that have one all the same:

| folder | its texts | its score is read |
|---|---|---|
| saved here since then (config.json has `scored_text`) | prompt, response, end token | at the end |
| saved here before, padding is not the end token | the same | at the end |
| saved here before, padding is the end token | the same | before the end: trained there |
| anybody else's | its own chat template | where transformers reads it |

DeepSpeed-Chat's own reward checkpoints are no Hugging Face classifiers: a pytorch_model.bin whose
weights are named rwtransformer.* (in older versions rwtranrsformer.*) for the model's body and
v_head.weight for the linear layer that scores. They are recognised here and refused.
"""

from __future__ import annotations

import copy
import functools
import logging
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from dschat.errors import UserError

logger = logging.getLogger(__name__)

MARK = "scored_text"
TO_END_TOKEN = "to_end_token"
"""What config.json says of reward models saved here: texts are prompt, response and end token."""

END_WORDS = re.compile(r"(?i)end|eo[stmc]|stop|/s")
STEP_2_SETTINGS = {"eval_iters", "num_padding_at_beginning", "run"}


@dataclass(frozen=True)
class Reading:
    """How the texts of a reward model's folder are written and scored.

    Attributes:
        to_end_token: a text is prompt, response and end token, as step 2 trains; else it is
            the conversation in the folder's own chat template.
        skipped: the id of an end token that pads as well: the last other token is scored.
    """

    to_end_token: bool
    skipped: int | None


def reading(path: str, config: Any, end_token_id: int | None) -> Reading:
    """How the folder `path` is read; warns where it is not at the last token.

    Args:
        config: as it is on the disk. end_token_id: what texts end with.
    """
    marked = getattr(config, MARK, None) == TO_END_TOKEN
    own = marked or _saved_by_step_2(Path(path))
    pad = config.get_text_config().pad_token_id
    if marked or pad is None or pad != end_token_id:
        return Reading(own, None)
    if own:
        _say_once(
            f"{path} was saved by an older version whose padding token is the end token: it was "
            "trained at the token before the end, and is scored there. Train it again with step 2 "
            "to have it scored at the end token."
        )
    else:
        _say_once(
            f"{path}: the padding token is the end token, so its scores are read at the last "
            "other token, as transformers does."
        )
    return Reading(own, pad)


def _saved_by_step_2(folder: Path) -> bool:
    """Whether a folder without a mark lies where step 2 put it: beside the run's config.yaml."""
    file = folder.resolve().parent / "config.yaml"
    if not (re.fullmatch(r"step_\d+", folder.resolve().name) and file.is_file()):
        return False
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    return isinstance(settings, dict) and settings.keys() >= STEP_2_SETTINGS


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def last_tokens(input_ids: Tensor, attention_mask: Tensor, skipped: int | None = None) -> Tensor:
    """Where each row's score is read, [B] int64.

    Args:
        input_ids, attention_mask: [B, L], padded on either side.
        skipped: see `Reading`; a row of nothing else is read at 0, as in transformers.
    """
    counts = attention_mask.bool()
    if skipped is not None:
        counts = counts & (input_ids != skipped)
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    return (places * counts).argmax(dim=1)


def at_last_tokens(
    hidden: Tensor, input_ids: Tensor, attention_mask: Tensor, skipped: int | None = None
) -> Tensor:
    """[B, L, H] -> [B, H]: the states that the head scores; see `last_tokens`."""
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, last_tokens(input_ids, attention_mask, skipped)]


def has_score_head(model: Any) -> bool:
    """Whether a linear `score` head sits on the states, as in all causal classifiers.

    Others, encoders above all, read their score where they were made to.
    """
    return isinstance(getattr(model, "score", None), torch.nn.Module)


def read_at_last_token(model: Any) -> Any:
    """Make a classifier with a `score` head read the last token whatever its id; returns it.

    Nothing else of its output is kept than `logits` [B, 1]. Its weights and its files are those of
    any other model of the class.
    """
    if has_score_head(model):
        model.forward = MethodType(_forward, model)
    return model


def _forward(self: Any, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast

    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    body = getattr(self, self.base_model_prefix)
    output = body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    states = at_last_tokens(output.last_hidden_state, input_ids, attention_mask)
    return SequenceClassifierOutputWithPast(logits=self.score(states))


def padding_apart(tokenizer: Any) -> str | None:
    """A padding token that is not the end token, for a reward model's folder.

    The tokenizer's own where it is another one; else a special token of the vocabulary that ends no
    text: one that is called padding, the unknown token, one that chats do not use, the beginning.
    None where the end token is the only special token.
    """
    end, own = tokenizer.eos_token, tokenizer.pad_token
    if own is not None and own != end:
        return own
    tokens = sorted(tokenizer.added_tokens_decoder.items())
    special = [token.content for _, token in tokens if token.special]
    if tokenizer.unk_token is not None:
        special.append(tokenizer.unk_token)
    template = str(getattr(tokenizer, "chat_template", None) or "")

    def rank(token: str) -> int:
        if "pad" in token.lower():
            return 0
        if token == tokenizer.unk_token:
            return 1
        if token == tokenizer.bos_token:
            return 3
        return 4 if token in template or END_WORDS.search(token) else 2

    return min((token for token in special if token != end), key=rank, default=None)


def set_padding(config: Any, tokenizer: Any) -> None:
    """Tell a classifier's config what pads its texts: `padding_apart`."""
    token = padding_apart(tokenizer)
    token_id = None if token is None else tokenizer.convert_tokens_to_ids(token)
    for part in (config, config.get_text_config()):
        part.pad_token_id = token_id


def as_reward_model(config: Any, tokenizer: Any) -> Any:
    """Make `config` that of a reward model of ours; returns the tokenizer to save beside it.

    Both name a padding token apart from the end token, and texts are padded on the right. Where the
    vocabulary has none, both name none: transformers then scores texts one at a time.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = padding_apart(tokenizer)
    tokenizer.padding_side = "right"
    set_padding(config, tokenizer)
    setattr(config, MARK, TO_END_TOKEN)
    return tokenizer


WEIGHTS_FILE = "pytorch_model.bin"
HEAD = "v_head.weight"
LOADING_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    pickle.UnpicklingError,
    SafetensorError,
)
COMMAND = "python -m dschat.models.convert_reward_model"


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a .bin file by name; nothing in the file is executed.

    They stay on disk until they are used, where the file's format allows it.

    Raises:
        UserError: it holds something else than tensors, or is damaged.
    """
    try:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format of torch before 1.6 cannot be mapped
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as a file of weights: {reason}") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path} holds a {type(weights).__name__}; expected tensors by name.")
    return weights


def is_v_head(names: Iterable[str]) -> bool:
    """Whether these names of weights are those of a DeepSpeed-Chat reward model."""
    return HEAD in names


def check_not_v_head(path: str, flag: str) -> None:
    """Refuse a folder in DeepSpeed-Chat's own format.

    Args:
        path: folder or hub name. flag: the flag that gave it, for the message.

    Raises:
        UserError: names the command that converts it.
    """
    file = Path(path) / WEIGHTS_FILE
    if not file.is_file() or any(Path(path).glob("*.safetensors")):
        return
    if is_v_head(read_weights(file)):
        raise UserError(
            f"--{flag} {path} is a reward model in DeepSpeed-Chat's own format ({HEAD} in "
            f"{WEIGHTS_FILE}). Convert it once:\n    {COMMAND} {path} {path.rstrip('/')}-converted"
            f"\nand give --{flag} {path.rstrip('/')}-converted."
        )
