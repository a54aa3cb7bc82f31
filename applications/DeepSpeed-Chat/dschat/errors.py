"""Errors that a user can act on, and the one place where a script turns them into an exit code."""

from __future__ import annotations

import unicodedata
from typing import Any

MAX_DEPTH = 64
"""Lists and objects inside each other in what is read from a user's files. Python's own limit
depends on how deep the reader stands, so a file could be read and not be written again."""

DIRECTION_MARKS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


class UserError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, what was expected and what to do. Scripts print it without a
    traceback and exit with code 1 (see `dschat.runtime.script.run_script`).
    """


def printable(text: str) -> str:
    """The text without what commands a terminal or shows it in another order.

    Replaced by U+FFFD: control characters but for line ends and tabs (they move the cursor, clear
    lines, start escape codes), Unicode's marks of writing direction (UAX 9: they reorder what
    stands beside them), its line and paragraph separators, and lone surrogates, which cannot be
    written.
    """
    return "".join(
        c
        if c in "\n\t"
        or (c not in DIRECTION_MARKS and unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp"))
        else "\N{REPLACEMENT CHARACTER}"
        for c in text.replace("\r\n", "\n")
    )


def one_line(message: str) -> str:
    """The message on one line and `printable`: libraries' own, files' names and servers' answers,
    which it may quote, can have several lines and escape codes."""
    lines = (line.strip() for line in message.splitlines())
    return printable(" ".join(line for line in lines if line))


def too_deep(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether lists, tuples and dictionaries lie more than `limit` deep in `value`; no recursion.

    Each object is looked at once, however many aliases of YAML lead to it; one that contains
    itself is too deep.
    """
    level, depth = [value], 0
    while depth <= limit:
        inside = {
            id(item): item
            for holder in level
            if isinstance(holder, dict | list | tuple)
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list | tuple)
        }
        if not inside:
            return depth + isinstance(value, dict | list | tuple) > limit
        level, depth = list(inside.values()), depth + 1
    return True
