"""Single keys from a terminal, and texts that cannot command it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dschat.errors import printable

END = ""


def one_line(text: str, width: int = 40) -> str:
    """A printable text in one line, cut to `width` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 3] + "..."


@contextmanager
def single_keys() -> Iterator[None]:
    """Inside, a terminal gives each key at once. Keys pressed before are dropped: they were not
    meant for the question that follows."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSAFLUSH)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def read_key() -> str:
    """One key of a terminal, or the first letter of a line; `END` at the end of the input."""
    if sys.stdin.isatty():
        key = os.read(sys.stdin.fileno(), 1).decode("ascii", "replace")
        return END if key == "\x04" else key
    line = sys.stdin.readline()
    return (line.strip()[:1] or "?") if line else END
