"""Texts that spell a control token: `<|im_end|>` in a question about chat templates.

A tokenizer would make the control token itself of it, which ends a response in its middle, or a
user's turn. In responses and in the contents of messages it is encoded as the ordinary text that
it is. A prompt that is a plain text is left alone: somebody may have written it with a template.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from dschat.data.ends import ends_of

logger = logging.getLogger(__name__)


def response_ids(tokenizer: Any, response: str) -> list[int]:
    """Token ids of a response without an end: what it spells is ordinary text.

    An end token at its very end, as rendered conversations have it, is dropped: one is put there.
    """
    ids = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    ends = ends_of(tokenizer).own_ids
    if not (_known(tokenizer)[1] | set(ends)).intersection(ids):
        return ids
    names = [name for end in ends if (name := tokenizer.convert_ids_to_tokens(end))]
    while end := next((name for name in names if response.rstrip().endswith(name)), None):
        response = response.rstrip().removesuffix(end)
    ids = list(_as_text(tokenizer, response))
    if not set(ends).intersection(ids):
        return ids
    # An end that is no special token: cut in two it is none at all.
    for name in names:
        response = response.replace(name, f"{name[:1]}\0{name[1:]}")
    return [token for part in response.split("\0") for token in _as_text(tokenizer, part)]


def spell_control_tokens(tokenizer: Any, texts: Iterable[str]) -> bool:
    """Whether any of the texts spells a special token; warns the first time."""
    _, control, firsts = _known(tokenizer)
    suspects = [text for text in texts if not firsts.isdisjoint(text)]  # few texts have a "<"
    for text in suspects:
        if control.intersection(tokenizer(text, add_special_tokens=False)["input_ids"]):
            _tell(tokenizer, text)
            return True
    return False


def _as_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids without special tokens."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if _known(tokenizer)[1].intersection(ids):
        _tell(tokenizer, text)
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids)


def _tell(tokenizer: Any, text: str) -> None:
    if not getattr(tokenizer, "_dschat_warned_of_control", False):
        tokenizer._dschat_warned_of_control = True
        logger.warning(
            "texts of the data spell control tokens (as in %r): they are read as ordinary text",
            text if len(text) < 60 else f"{text[:28]}...{text[-28:]}",
        )


def _known(tokenizer: Any) -> tuple[int, frozenset[int], frozenset[str]]:
    """The tokenizer's size, the ids of its special tokens, and their first characters; kept.

    The token of unknown words is not among them: ordinary text has it too.
    """
    kept = getattr(tokenizer, "_dschat_control", None)
    if kept is None or kept[0] != len(tokenizer):
        added = getattr(tokenizer, "added_tokens_decoder", {})
        control = {i: str(t) for i, t in added.items() if t.special and t.content}
        control.pop(tokenizer.unk_token_id, None)
        firsts = frozenset(text[0] for text in control.values())
        kept = (len(tokenizer), frozenset(control), firsts)
        tokenizer._dschat_control = kept
    return kept
