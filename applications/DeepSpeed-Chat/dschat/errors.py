"""Errors that a user can act on, and the one place where a script turns them into an exit code."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, what was expected and what to do. Scripts print it without a
    traceback and exit with code 1 (see `dschat.runtime.script.run_script`).
    """


def one_line(message: str) -> str:
    """The message on one line: libraries' own, which it may quote, can have several."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())
