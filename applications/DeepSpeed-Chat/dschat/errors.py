"""Errors that a user can act on, and the one place where a script turns them into an exit code."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 64
"""Lists and objects inside each other in what is read from a user's files. Python's own limit
depends on how deep the reader stands, so a file could be read and not be written again."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, what was expected and what to do. Scripts print it without a
    traceback and exit with code 1 (see `dschat.runtime.script.run_script`).
    """


def one_line(message: str) -> str:
    """The message on one line: libraries' own, which it may quote, can have several."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


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
