"""Where a response ends: the one place that all that sample, score, save and load ask.

A model may have several tokens that end a response: its tokenizer's `eos_token`, those that its
generation_config.json lists (Llama 3: [128001, 128008, 128009]; Gemma 3: [1, 106]), and the token
that its chat template closes the assistant's turn with. Sampling stops at each of them. One, the
first, is put behind the responses of the data, and is the `eos_token` of the loaded tokenizer:

1. `--end_of_conversation_token`, now or when the folder was made (the tokenizer's config keeps it);
2. the token that closes a turn, where generation_config.json lists it: a chat model's own;
3. the tokenizer's own `eos_token`.

A run may have further ends, which are not the model's and are not saved with it: stop tokens and
stop texts (`set_stops`, `dschat.data.stop_texts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from dschat.data.stop_texts import StopTexts
from dschat.settings.command_line import require
from dschat.settings.rollout.stops import StopFlags

EndIds: TypeAlias = int | Sequence[int]
GIVEN = "response_end"
"""Entry of tokenizer_config.json: the end token that was given by flag when the folder was made."""


@dataclass(frozen=True)
class Ends:
    """The tokens that end a response, and the texts, where there are any.

    Attributes:
        ids: all of them, the one behind the data's responses first; () where there is none.
        is_new: that first one has been added to the vocabulary and its row is not trained yet.
        stop_ids: those among `ids` that are the run's and not the model's.
        texts: the run's stop texts.
    """

    ids: tuple[int, ...]
    is_new: bool = False
    stop_ids: tuple[int, ...] = ()
    texts: StopTexts | None = None

    @property
    def own_ids(self) -> tuple[int, ...]:
        """The model's own."""
        return tuple(i for i in self.ids if i not in self.stop_ids)

    def new_rows(self) -> tuple[int, ...]:
        """Tokens whose rows of the embeddings are not trained yet."""
        return self.ids[:1] if self.is_new else ()

    def close(self, response: Sequence[int]) -> bool:
        """Whether a response (token ids) ended by itself."""
        in_text = self.texts is not None and self.texts.length(response) is not None
        return in_text or ended(response, self.ids)


def end_ids(ends: EndIds) -> tuple[int, ...]:
    """One id or several, as a tuple."""
    return (ends,) if isinstance(ends, int) else tuple(ends)


def ended(response: Sequence[int], ends: EndIds | Ends) -> bool:
    """Whether the last token of a response is one that ends it."""
    if isinstance(ends, Ends):
        return ends.close(response)
    return bool(response) and response[-1] in end_ids(ends)


def ends_of(tokenizer: Any) -> Ends:
    """The ends of a model's responses, by its tokenizer.

    Found once and kept with the tokenizer, so that they stay as they are when its folder changes;
    found anew where somebody has given the tokenizer another `eos_token` or template.
    """
    key, kept = getattr(tokenizer, "_dschat_ends", (None, Ends(())))
    if key != _key(tokenizer):
        own = tokenizer.eos_token_id
        path = getattr(tokenizer, "name_or_path", "")
        kept = _keep(tokenizer, Ends(_all_ids(tokenizer, [own], path)))
    stop_ids, texts = getattr(tokenizer, "_dschat_stops", ((), None))
    if not stop_ids and texts is None:
        return kept
    added = tuple(i for i in stop_ids if i not in kept.ids)
    return replace(kept, ids=(*kept.ids, *added), stop_ids=added, texts=texts)


def set_stops(tokenizer: Any, flags: StopFlags) -> None:
    """Let the run's stop tokens and texts end responses, wherever `ends_of` is asked.

    Raises:
        UserError: a stop token is not one token of the vocabulary, or see `StopTexts.of`.
    """
    ids = [_stop_id(tokenizer, text) for text in flags.stop_token or []]
    texts = flags.stop_text and StopTexts.of(tokenizer, flags.stop_text, flags.include_stop_text)
    tokenizer._dschat_stops = (tuple(dict.fromkeys(ids)), texts or None)


def _stop_id(tokenizer: Any, text: str) -> int:
    """The token that a text is: as it is written in a text, or its name in the vocabulary."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and tokenizer.decode(ids) == text:
        return ids[0]
    by_name = tokenizer.convert_tokens_to_ids(text)
    known = by_name is not None and tokenizer.convert_ids_to_tokens(by_name) == text
    require(
        known,
        f"--stop_token {text!r} is not a token of {tokenizer.name_or_path!r}: it becomes "
        f"{len(ids)} tokens. Use --stop_text {text!r}, which may span several.",
    )
    return by_name


def set_ends_of(tokenizer: Any, path: str, given: str | None, is_new: bool = False) -> Ends:
    """Choose the tokenizer's `eos_token` by the rule of this module, and keep its ends with it.

    Args:
        tokenizer: as it was loaded from `path`; it may be left without an `eos_token`.
        given: by the user; a token of the vocabulary.
        is_new: `given` has just been added to the vocabulary.
    """
    before, turn = tokenizer.eos_token_id, _turn_end(tokenizer)
    if given is not None:
        tokenizer.eos_token = given
        tokenizer.init_kwargs[GIVEN] = given
    elif tokenizer.init_kwargs.get(GIVEN) is None and turn in _listed_ids(tokenizer, path):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(turn)
    return _keep(
        tokenizer, Ends(_all_ids(tokenizer, [tokenizer.eos_token_id, before], path, turn), is_new)
    )


def decode_responses(tokenizer: Any, responses: Iterable[Sequence[int]]) -> list[str]:
    """The responses' texts, without the token that ended them (not all of these are special).

    A stop text and what its last token has behind it are left out, too (`include_stop_text`: only
    the latter).
    """
    ends = ends_of(tokenizer)
    plain = [list(r[:-1]) if ended(r, ends.ids) else list(r) for r in responses]
    texts = tokenizer.batch_decode(plain, skip_special_tokens=True)
    return texts if ends.texts is None else [ends.texts.cut(text) for text in texts]


def saved_ends(tokenizer: Any) -> int | list[int] | None:
    """`eos_token_id` of a generation_config.json: a number, or a list of several."""
    ids = list(ends_of(tokenizer).own_ids)
    return ids if len(ids) > 1 else next(iter(ids), None)


def _keep(tokenizer: Any, ends: Ends) -> Ends:
    tokenizer._dschat_ends = _key(tokenizer), ends
    return ends


def _key(tokenizer: Any) -> tuple[int | None, Any]:
    """What the ends depend on, beside the folder."""
    return tokenizer.eos_token_id, getattr(tokenizer, "chat_template", None)


def _all_ids(
    tokenizer: Any, first: Sequence[int | None], path: str, turn: int | None = None
) -> tuple[int, ...]:
    turn = turn if turn is not None else _turn_end(tokenizer)
    listed = _listed_ids(tokenizer, path)
    if turn not in listed and not _is_control(tokenizer, turn):
        turn = None  # a template that closes turns with ordinary text
    return tuple(dict.fromkeys(i for i in (*first, *listed, turn) if i is not None))


def _listed_ids(tokenizer: Any, path: str) -> list[int]:
    """What the model folder says; without generation_config.json transformers asks config.json.

    Values that come from a config class's default, as in config.json, count only where they are
    control tokens: for other tokenizers than the class was made for they are any word.
    """
    settings = read_json(path, "generation_config.json")
    explicit = settings is not None and not settings.get("_from_model_config")
    if settings is None:
        settings = read_json(path, "config.json") or {}
        settings = {**(settings.get("text_config") or {}), **settings}
    found = settings.get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return [
        i
        for i in ids
        if type(i) is int
        and i >= 0
        and (_has_token(tokenizer, i) if explicit else _is_control(tokenizer, i))
    ]


def read_json(path: str, name: str) -> dict[str, Any] | None:
    """A JSON object of a model folder or hub name; None where there is none to be read."""
    if not path:
        return None
    if Path(path).is_dir():
        file: Path | str | None = Path(path) / name
    else:
        from transformers.utils import cached_file

        try:
            file = cached_file(
                path,
                name,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except (OSError, ValueError):
            file = None
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8")) if file is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _has_token(tokenizer: Any, token_id: int) -> bool:
    try:
        return tokenizer.convert_ids_to_tokens(token_id) is not None
    except (IndexError, OverflowError, AttributeError):
        return False


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of tokens beside the vocabulary of texts that are marked as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {i for i, token in added.items() if token.special}


def _is_control(tokenizer: Any, token_id: int | None) -> bool:
    """Whether this is a token of its own beside the vocabulary of texts."""
    if token_id is None:
        return False
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return token_id in added or token_id in getattr(tokenizer, "all_special_ids", ())


QUESTION, ANSWER = "What is one and one?", "It is two, as far as anybody knows."


def _turn_end(tokenizer: Any) -> int | None:
    """The first token that the chat template writes behind an assistant's answer."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # templates are programs: whatever goes wrong, it says nothing about ends
        return None
    _, found, behind = text.rpartition(ANSWER)
    ids = tokenizer(behind.strip(), add_special_tokens=False)["input_ids"] if found else []
    return ids[0] if ids else None
