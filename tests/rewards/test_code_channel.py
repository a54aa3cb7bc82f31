"""What the trainer makes of a runner that a program has taken over: any bytes, or none."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from dschat.rewards.code.limits import Limits
from dschat.rewards.code.process import (
    SandboxClosedError,
    SandboxProcess,
    SandboxTimeoutError,
)

SECONDS = 30.0
LIMITS = Limits(test_seconds=SECONDS, output_mb=1)

RUNNER = """
import os, struct, sys, time
def read(count):
    data = b""
    while len(data) < count:
        data += os.read(0, count - len(data))
    return data
def read_frame():
    return read(struct.unpack("<I", read(4))[0])
def result(*numbers):
    return struct.pack("<iIII", *numbers)
os.write(1, b"\\x06ready")
read_frame()
os.write(1, b"\\0\\0\\0\\0\\0")
"""

Start = Callable[..., SandboxProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a runner that answers tests as some code says."""
    started: list[SandboxProcess] = []

    def start(code: str, runner: str = RUNNER) -> SandboxProcess:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", runner + code],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(SandboxProcess(process, LIMITS, process.kill, lambda: None))
        started[-1].wait_until_ready(SECONDS)
        return started[-1]

    yield start
    for sandbox in started:
        sandbox.close()


def test_honest_answers(start: Start) -> None:
    sandbox = start(
        "for _ in range(2):\n"
        "    data = read_frame()\n"
        "    os.write(1, read(16) + result(7, len(data), 1, 2) + data + b'erv')"
    )
    assert sandbox.compile("", None, 9) is None
    for text in ("first", "second"):
        execution = sandbox.run(text, SECONDS)
        assert (execution.exit_code, execution.output) == (7, text.encode())
        assert (execution.errors, execution.returned) == (b"e", b"rv")


def test_answer_before_the_end_of_the_run(start: Start) -> None:
    sandbox = start("read_frame()\nos.write(1, bytes(16) + result(0, 1, 0, 0) + b'3')")
    assert sandbox.compile("", None, 9) is None
    with pytest.raises(SandboxClosedError, match="channel"):
        sandbox.run("", SECONDS)


@pytest.mark.parametrize("lengths", ["4 << 20, 0, 0", "0, 0, 0xFFFFFFFF"])
def test_length_that_would_fill_the_memory(start: Start, lengths: str) -> None:
    sandbox = start(f"read_frame()\nos.write(1, read(16) + result(0, {lengths}))\ntime.sleep(100)")
    assert sandbox.compile("", None, 9) is None
    with pytest.raises(SandboxClosedError, match="too long"):
        sandbox.run("", SECONDS)


def test_half_an_answer(start: Start) -> None:
    sandbox = start("read_frame()\nos.write(1, read(16) + result(0, 9, 0, 0) + b'3')")
    assert sandbox.compile("", None, 9) is None
    with pytest.raises(SandboxClosedError, match="gone"):
        sandbox.run("", SECONDS)


@pytest.mark.parametrize("length", [1, 10_000_000])
def test_nothing_is_read_or_written(start: Start, length: int) -> None:
    sandbox = start("time.sleep(100)")
    assert sandbox.compile("", None, 9) is None
    begin = time.monotonic()
    with pytest.raises(SandboxTimeoutError):
        sandbox.run("x" * length, 0.2)
    assert time.monotonic() - begin < 10


def test_one_byte_at_a_time(start: Start) -> None:
    """Each byte comes in time; the answer does not."""
    sandbox = start("read_frame()\nwhile True:\n    os.write(1, b'x')\n    time.sleep(0.05)")
    assert sandbox.compile("", None, 9) is None
    with pytest.raises((SandboxTimeoutError, SandboxClosedError)):
        sandbox.run("", 0.3)


def test_crash_while_compiling(start: Start) -> None:
    sandbox = start("", runner="import os\nos.write(1, b'\\x06ready')\n")
    assert sandbox.compile("x", None, 9) == "the compiler crashed"
