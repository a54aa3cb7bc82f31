"""A time limit for a user's reward function: `--reward_timeout`.

Three things end a call, one after the other. An async function is cancelled. Others are
interrupted by SIGALRM, whose exception `except Exception` does not catch. Where that does not help
(the function sits in C code, swallows the exception, or runs in another thread than the main one),
a second process ends this one: no thread of this one could, while C code holds the interpreter's
lock.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dschat.errors import UserError

GRACE = 5.0
"""Seconds from the limit until the process is ended, if the function does not stop."""

# A line "SECONDS MESSAGE" starts the clock, the next line stops it, the end of input ends it all.
WATCHDOG = """
import os, select, signal, sys
lines = open(0, "rb", buffering=0)  # what is read ahead, select would not see
for line in iter(lines.readline, b""):
    seconds, _, message = line.decode().strip().partition(" ")
    if seconds and not select.select([lines], [], [], float(seconds))[0]:
        print(message, file=sys.stderr, flush=True)
        os.kill(int(sys.argv[1]), signal.SIGKILL)
"""

_deadline: float | None = None  # of the call in progress, by time.monotonic()


class _ExpiredError(BaseException):
    """Raised in a reward function whose time is up; no `Exception`, which it might catch."""


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """End what runs inside after so many seconds.

    Args:
        message: of the error; printed before the process is killed, if it comes to that.

    Raises:
        UserError: `message`.
    """
    global _deadline

    def expire(number: int, frame: Any) -> None:
        raise _ExpiredError

    in_main = threading.current_thread() is threading.main_thread()
    _tell(f"{seconds + GRACE} error: {' '.join(message.split())}")
    before = signal.signal(signal.SIGALRM, expire) if in_main else None
    _deadline = deadline = time.monotonic() + seconds
    try:
        try:
            if in_main:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            if in_main:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            _deadline = None
            _tell("")
    except _ExpiredError:
        raise UserError(message) from None
    if time.monotonic() > deadline + GRACE / 2:  # it swallowed the exception, and returned late
        raise UserError(message)


async def within_limit(result: Any) -> Any:
    """The awaitable's result; cancelled when the time of the call in progress is up."""
    deadline = _deadline
    if deadline is None:
        return await result
    left = max(deadline - time.monotonic(), 0.0)
    if threading.current_thread() is threading.main_thread():
        # Cancelling leaves the event loop in order: the signal is for what blocks the loop.
        signal.setitimer(signal.ITIMER_REAL, left + GRACE / 2)
    try:
        return await asyncio.wait_for(result, left)
    except TimeoutError:
        if time.monotonic() < deadline:  # the function's own
            raise
        raise _ExpiredError from None


def _tell(line: str) -> None:
    stream = _watchdog(os.getpid()).stdin
    assert stream is not None
    with suppress(BrokenPipeError):
        stream.write(line + "\n")
        stream.flush()


@functools.cache
def _watchdog(process: int) -> subprocess.Popen[str]:
    """The process that ends this one."""
    command = [sys.executable, "-u", "-c", WATCHDOG, str(process)]
    started = subprocess.Popen(
        command, stdin=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    atexit.register(_close, started)
    return started


def _close(watchdog: subprocess.Popen[str]) -> None:
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        watchdog.communicate(timeout=GRACE)
