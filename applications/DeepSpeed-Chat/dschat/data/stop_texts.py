"""Texts that end a response, found in the bytes of its tokens.

A response ends with the first token with which the bytes of its tokens contain those of a text. A
token has the same bytes wherever it stands, so that only the last bytes have to be looked at, and
half a character at the end of a token hides nothing (a decoded text would show a replacement
character there, or for a run of byte tokens several). UTF-8 is self-synchronising: bytes contain
those of a text exactly where the characters do.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from dschat.settings.command_line import require

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_META_SPACE = "▁"


class StopTexts:
    """The texts that end a model's responses.

    Args:
        texts: one or more, none empty.
        bytes_of: the bytes of a token, by its id.
        include: the response's text keeps the one that ended it.
    """

    def __init__(
        self, texts: Sequence[str], bytes_of: Callable[[int], bytes], include: bool = False
    ) -> None:
        self.texts, self.bytes_of, self.include = tuple(texts), bytes_of, include
        self._needles = [text.encode() for text in self.texts]
        self._kept = max(map(len, self._needles)) - 1

    @classmethod
    def of(cls, tokenizer: Any, texts: Sequence[str], include: bool = False) -> StopTexts:
        """The texts for a model's tokenizer.

        Raises:
            UserError: a text is a control token, which no text shows.
        """
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        for text in texts:
            require(
                text not in special,
                f"--stop_text {text!r} is a control token of {tokenizer.name_or_path!r}, which is "
                f"no part of a response's text. Use --stop_token {text!r}.",
            )
        return cls(texts, functools.cache(bytes_of_tokens(tokenizer)), include)

    def after(self, tail: bytes, token: int) -> tuple[bool, bytes]:
        """Whether this token completes a text, and the bytes to give with the next token.

        Args:
            tail: what the call for the token before returned; b"" for the first one.
        """
        window = tail + self.bytes_of(token)
        over = any(needle in window for needle in self._needles)
        return over, window[-self._kept :] if self._kept else b""

    def length(self, response: Sequence[int]) -> int | None:
        """How many tokens a response has up to the one that completes a text; None: none does."""
        tail = b""
        for count, token in enumerate(response, start=1):
            over, tail = self.after(tail, token)
            if over:
                return count
        return None

    def cut(self, text: str) -> str:
        """A response's text, up to the first stop text in it."""
        found = [(at, len(stop)) for stop in self.texts if (at := text.find(stop)) >= 0]
        if not found:
            return text
        at, size = min(found)
        return text[: at + size] if self.include else text[:at]


class StopWatch:
    """Follows B responses while they are sampled, one token at a time."""

    def __init__(self, stops: StopTexts, batch: int) -> None:
        self.stops = stops
        self.tails = [b""] * batch

    def over(self, rows: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """Whether the next token of each of these responses completes a text."""
        found = []
        for row, token in zip(rows, tokens, strict=True):
            over, self.tails[row] = self.stops.after(self.tails[row], token)
            found.append(over)
        return found


def bytes_of_tokens(tokenizer: Any) -> Callable[[int], bytes]:
    """Token id -> the bytes that it adds to a response's text; none for special tokens.

    Byte-level tokenizers (GPT-2 and its kin) and those with byte tokens (sentencepiece) say so
    themselves; of others a token is what decoding shows behind another token.
    """
    added = tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special}
    of_text = _of_piece(tokenizer)

    def find(token: int) -> bytes:
        if token in special:
            return b""
        if token in added:
            return added[token].content.encode()
        return of_text(token)

    return find


def _of_piece(tokenizer: Any) -> Callable[[int], bytes]:
    kinds = _decoder_kinds(tokenizer)
    if "ByteLevel" in kinds:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        return lambda i: bytes(byte_of.get(c, 0) for c in _piece(tokenizer, i))
    has_byte_tokens = tokenizer.convert_tokens_to_ids("<0x0A>") not in (
        None,
        tokenizer.unk_token_id,
    )
    if has_byte_tokens or kinds & {"ByteFallback", "Metaspace"}:
        return lambda i: _of_sentencepiece(_piece(tokenizer, i))
    # A token of ordinary text before it, whose own text is then taken off.
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = tokenizer.decode(anchor)
    return lambda i: tokenizer.decode([*anchor, i]).removeprefix(before).encode()


def _piece(tokenizer: Any, token: int) -> str:
    return tokenizer.convert_ids_to_tokens(token) or ""


def _of_sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_META_SPACE, " ").encode()


def _decoder_kinds(tokenizer: Any) -> set[str]:
    """The kinds of decoders that a fast tokenizer is made of."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {part["type"] for part in (state, *state.get("decoders", ()))}
