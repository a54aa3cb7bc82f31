"""Keeping an API key out of everything that is shown or written."""

from __future__ import annotations

import re

from dschat.errors import UserError

MASK = "[key]"
# A shorter key is a word for a server that asks for none; in the midst of words it is chance.
SHORTEST_SECRET = 8
# What keys of the usual providers look like: the key of another account may be told by a server.
KEY_PATTERN = re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_*-]{6,}")


def redact(text: str, *keys: str | None) -> str:
    """`text` without the keys, and without anything that looks like one."""
    for key in keys:
        key = (key or "").strip()
        if len(key) >= SHORTEST_SECRET:
            text = text.replace(key, MASK)
        elif key:
            text = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", MASK, text)
    return KEY_PATTERN.sub(MASK, text)


def checked_key(key: str | None) -> str:
    """The key without white space around it.

    Raises:
        UserError: there is none, or it holds characters that no header can carry.
    """
    key = (key or "").strip()
    if not key:
        raise UserError(
            "There is no API key. Set the environment variable OPENAI_API_KEY or give --sk (any "
            "word where your server, named by OPENAI_BASE_URL, asks for none)."
        )
    if not all("!" <= c <= "~" for c in key):
        raise UserError(
            "The API key holds a blank or a character outside ASCII; it was perhaps not copied "
            "whole. Its text is not repeated here."
        )
    return key
