"""A prototype, for comparison only: under limits, one server that forks for every program.

The package starts an interpreter for each program. Here one interpreter is started, and each
program's runner is a fork of it that changes to the program's own user. Only for root, who can
change to another user; a program may not reach a server that runs as root.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dschat.rewards.code import sandbox
from dschat.rewards.code.bubblewrap import PYTHON_FLAGS, environment
from dschat.rewards.code.identity import kill_children, kill_user
from dschat.rewards.code.interpreter import find_interpreter
from dschat.rewards.code.launching import RUNNER_SOURCE
from dschat.rewards.code.limits import Limits
from dschat.rewards.code.process import SandboxProcess

SERVER_SOURCE = (
    RUNNER_SOURCE.partition('if __name__ == "__main__":')[0]
    + """
import _socket
control = _socket.socket(fileno=os.dup(0))
while True:
    data, parts, *_ = control.recvmsg(4096, _socket.CMSG_SPACE(8))
    if not data:
        break
    user, folder = int(data[:8]), data[8:].decode()
    files = struct.unpack("ii", parts[0][2])
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.umask(0o077)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.chdir(folder)
        os.environ["HOME"] = os.environ["TMPDIR"] = folder
        for number, file in enumerate(files):
            os.dup2(file, number)
        try:
            serve()
        finally:
            os._exit(1)
    for file in files:
        os.close(file)
    control.send(struct.pack("i", pid))
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
)


class Forked:
    """What `SandboxProcess` needs of a process that is no child of ours."""

    def __init__(self, pid: int, stdin: Any, stdout: Any) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, None
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended and is reaped
            self._handle = None

    def poll(self) -> int | None:
        """None while it runs."""
        return None if self._handle is not None and not self._ended(0) else 0

    def wait(self, timeout: float = 10.0) -> int:
        """Until it has ended."""
        if self._handle is not None and not self._ended(timeout):
            raise subprocess.TimeoutExpired("a forked runner", timeout)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        return 0

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._handle or 0, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


class ForkServer:
    """The server, and `launch_limited` by means of it."""

    def __init__(self) -> None:
        interpreter = find_interpreter(for_others=True)
        self.control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [str(interpreter.executable), *PYTHON_FLAGS, SERVER_SOURCE],
            stdin=inside,
            env=environment(str(interpreter.library), "/tmp"),
            cwd="/",
        )
        inside.close()
        self.lock = threading.Lock()

    def launch(self, limits: Limits, user: int | None, folder: Path) -> SandboxProcess:
        """As `launch_limited`."""
        assert user is not None, "the prototype is for root"
        read, stdin = os.pipe()
        stdout, write = os.pipe()
        with self.lock:
            socket.send_fds(self.control, [b"%08d%s" % (user, os.fsencode(folder))], [read, write])
            (pid,) = struct.unpack("i", self.control.recv(4))
        os.close(read)
        os.close(write)
        process: Any = Forked(pid, os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0))
        return SandboxProcess(process, limits, lambda: kill_children(pid), lambda: kill_user(user))

    def close(self) -> None:
        """End the server."""
        self.control.close()
        self.process.wait()


@contextlib.contextmanager
def fork_server() -> Iterator[None]:
    """Inside, the sandbox "limits" starts its runners by a fork server."""
    server, launch = ForkServer(), sandbox.launch_limited
    sandbox.launch_limited = server.launch
    try:
        yield
    finally:
        sandbox.launch_limited = launch
        server.close()
