"""Errors that a user can act on, and the one place where a script turns them into an exit code."""

from __future__ import annotations

import os
import select
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

MAX_DEPTH = 64
"""Lists and objects inside each other in what is read from a user's files. Python's own limit
depends on how deep the reader stands, so a file could be read and not be written again."""

DIRECTION_MARKS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


EXIT_OUTPUT_LOST = 120
"""Python's own exit code where output cannot be written."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, what was expected and what to do. Scripts print it without a
    traceback and exit with code 1 (see `dschat.runtime.script.run_script`).
    """


@contextmanager
def closed_pipe_ends_quietly() -> Iterator[None]:
    """End without a traceback where nobody reads the output any more, as in `script.py | head`.

    Output is flushed at the end, also after `--help`. Other pipes that break, such as one to a
    process of the script's own, remain errors.

    Raises:
        SystemExit: with code 120; standard output or error is a pipe that its reader has closed.
    """
    try:
        try:
            yield
        except SystemExit:
            _flush()
            raise
        _flush()
    except BrokenPipeError:
        lost = [s for s in (sys.stdout, sys.stderr) if s is not None and _is_closed_pipe(s)]
        if not lost:
            raise
        for stream in lost:  # what is still in its buffer would fail again at Python's end
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        raise SystemExit(EXIT_OUTPUT_LOST) from None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BrokenPipeError:
            raise
        except OSError:  # a full disk: Python tells of it at its end
            pass


def _is_closed_pipe(stream: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return bool(poll.poll(0))  # errors only: the reading end is closed
    except (OSError, ValueError):  # no file behind it
        return False


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
