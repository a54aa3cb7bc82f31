"""A started sandbox seen from outside: what goes in, what comes out, and its end."""

from __future__ import annotations

import marshal
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dschat.rewards.code.limits import Limits
from dschat.rewards.code.runner import ERROR_BYTES, LENGTH, NONCE_BYTES, READY, RESULT

END_SECONDS = 0.5
"""How long a sandbox may take to end by itself once what it waits for is killed."""


class SandboxClosedError(Exception):
    """The other side has gone, or what it sent is no answer."""


class SandboxTimeoutError(Exception):
    """No answer in time."""


@dataclass(frozen=True)
class Execution:
    """What one run wrote: all of it is the program's word.

    Attributes:
        exit_code: negative if a signal ended it.
        output, errors, returned: standard output and error; the returned value as JSON.
    """

    exit_code: int
    output: bytes
    errors: bytes
    returned: bytes


class SandboxProcess:
    """A sandbox for one program.

    Args:
        process: the started sandbox; its standard input and output are the runner's.
        kill_inside: kills what the process waits for, so that it ends by itself and leaves no
            zombies to an init that may not reap any, as is usual in containers.
        kill_rest: kills whatever may be left once the process has ended.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        limits: Limits,
        kill_inside: Callable[[], None],
        kill_rest: Callable[[], None],
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.limits = limits
        self._kill_inside, self._kill_rest = kill_inside, kill_rest
        self._write, self._read = process.stdin.fileno(), process.stdout.fileno()
        for descriptor in (self._write, self._read):
            os.set_blocking(descriptor, False)

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for the runner inside.

        Raises:
            SandboxClosedError, SandboxTimeoutError: it did not start.
        """
        if self._receive(len(READY), time.monotonic() + seconds) != READY:
            raise SandboxClosedError("something else than the runner answered")

    def compile(self, program: str, function: str | None, processes: int) -> str | None:
        """Compile the program; the compiler's message if that fails, else None.

        Args:
            function: what `run` is to call; None for programs that read standard input.
            processes: how many processes and threads its user may have inside.
        """
        limits = self.limits
        setup = {
            "program": program,
            "function": function,
            "processes": processes,
            "memory_bytes": limits.memory_mb << 20,
            "output_bytes": limits.output_bytes,
            "open_files": limits.open_files,
            "cpu_seconds": limits.cpu_seconds,
            "out_of_time": int(signal.SIGXCPU),
        }
        end = time.monotonic() + limits.test_seconds
        try:
            self._send_frame(marshal.dumps(setup), b"", end)
            failed = self._receive(1, end) != b"\x00"
            message = self._receive(self._length(LENGTH, ERROR_BYTES, end)[0], end)
        except SandboxTimeoutError:
            return "compiling took too long"
        except SandboxClosedError:
            return "the compiler crashed"
        return message.decode(errors="replace") if failed else None

    def run(self, data: str, seconds: float) -> Execution:
        """Run the program once.

        Args:
            data: standard input, or the arguments as JSON.

        Raises:
            SandboxTimeoutError, SandboxClosedError: there is no answer; the sandbox is of no use
                any more.
        """
        end = time.monotonic() + seconds
        nonce = os.urandom(NONCE_BYTES)
        self._send_frame(data.encode("utf-8", "surrogatepass"), nonce, end)
        # Not a seal on the answer, which is the program's word at any rate: an answer without it
        # was sent before the run had ended, and would shift all that follow.
        if self._receive(NONCE_BYTES, end) != nonce:
            raise SandboxClosedError("the program wrote to the runner's channel")
        code, *lengths = self._length(RESULT, self.limits.output_bytes, end)
        return Execution(code, *(self._receive(length, end) for length in lengths))

    def last_words(self) -> str:
        """What a sandbox that did not start wrote to standard error."""
        self.process.kill()
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        return (self.process.stderr.read(ERROR_BYTES) or b"").decode(errors="replace").strip()

    def close(self) -> None:
        """Kill everything in the sandbox."""
        if self.process.poll() is None:
            self._kill_inside()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()  # which ends a runner that waits for a test
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # the program has stopped it, for instance
            self.process.kill()
            self.process.wait()
        self._kill_rest()

    def _length(self, layout: struct.Struct, highest: int, end: float) -> tuple[Any, ...]:
        """Numbers that may be trusted to be lengths, but for the first of several."""
        numbers = layout.unpack(self._receive(layout.size, end))
        if max(numbers) > highest:
            raise SandboxClosedError("an answer that is too long")
        return numbers

    def _send_frame(self, data: bytes, behind: bytes, end: float) -> None:
        view = memoryview(LENGTH.pack(len(data)) + data + behind)
        while view:
            self._wait(self._write, select.POLLOUT, end)
            try:
                view = view[os.write(self._write, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise SandboxClosedError(str(error)) from error

    def _receive(self, count: int, end: float) -> bytes:
        parts = []
        while count:
            self._wait(self._read, select.POLLIN, end)
            try:
                part = os.read(self._read, min(count, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise SandboxClosedError("the runner has gone")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, event: int, end: float) -> None:
        poll = select.poll()  # select() refuses descriptors above 1023
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise SandboxTimeoutError
