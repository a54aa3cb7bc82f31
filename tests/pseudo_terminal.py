"""A pseudo-terminal with a person at the other end, who reads and presses keys."""

from __future__ import annotations

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from launch import environment

SECONDS = 120.0


class Person:
    """Sits at the other end of a pseudo-terminal. `seen` is all that was shown."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read can end in a character

    def read_until(self, text: str) -> str:
        """What is shown until `text`."""
        start, deadline = len(self.seen), time.monotonic() + SECONDS
        while text not in self.seen[start:]:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[-500:]!r}"
            if select.select([self.terminal], [], [], 0.05)[0]:
                told = self._decoder.decode(os.read(self.terminal, 65536))
                self.seen += told.replace("\r\n", "\n")
        return self.seen[start:]

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())


@contextmanager
def at_a_terminal(monkeypatch: pytest.MonkeyPatch, act: Callable[[Person], None]) -> Iterator[None]:
    """Inside, stdin and stdout are a terminal at which `act` happens; its errors are raised."""
    master, slave = pty.openpty()
    errors: list[BaseException] = []
    person = Person(master)

    def live() -> None:
        try:
            act(person)
        except BaseException as error:
            errors.append(error)
            person.press("\x04q")  # do not leave the other side waiting

    thread = threading.Thread(target=live)
    with (
        os.fdopen(slave, "r", closefd=False) as stdin,
        os.fdopen(slave, "w", closefd=False) as out,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stdout", out)
            thread.start()
            yield
            out.flush()
        thread.join(SECONDS)
    os.close(master)
    os.close(slave)
    if errors:
        raise errors[0]


def start_at_a_terminal(
    script: Path, arguments: Sequence[object], **variables: str
) -> tuple[subprocess.Popen[bytes], Person]:
    """The script as the foreground of a terminal, so that Ctrl-C reaches it."""
    master, slave = pty.openpty()
    # Linux sends Ctrl-C's signal and then drops what waits to be shown: also what the process has
    # written in answer to the signal, if it was quick.
    modes = termios.tcgetattr(slave)
    modes[3] |= termios.NOFLSH
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    take_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", take_terminal, str(script), *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(**variables),
        start_new_session=True,
        # A test run in the background hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(slave)
    return process, Person(master)
