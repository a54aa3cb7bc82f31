"""The commands that start a sandbox, with and without bubblewrap."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dschat.rewards.code.bubblewrap import (
    PYTHON_FLAGS,
    bubblewrap_command,
    environment,
    find_bubblewrap,
)
from dschat.rewards.code.identity import (
    MARK,
    as_user,
    count_tasks,
    kill_all,
    kill_children,
    kill_user,
    processes_of,
)
from dschat.rewards.code.interpreter import find_interpreter
from dschat.rewards.code.limits import Limits
from dschat.rewards.code.process import SandboxProcess

SandboxKind = Literal["bwrap", "limits"]

RUNNER_SOURCE = Path(__file__).with_name("runner.py").read_text(encoding="utf-8")
RUNNER_PROCESSES = 2  # the runner and its child
BUBBLEWRAP_PROCESSES = 2  # one outside and one inside the namespaces

NEWS_SECONDS = 30.0
_CHILD = re.compile(rb'"child-pid": *([0-9]+)')

KERNEL_WITH_COUNTS_PER_NAMESPACE = (5, 14)


def launch_bubblewrap(limits: Limits, user: int | None) -> SandboxProcess:
    """Start the runner under bubblewrap; see `dschat.rewards.code.bubblewrap`."""
    program = find_bubblewrap()
    assert program is not None, "only where bubblewrap was found"
    interpreter = find_interpreter(for_others=user is not None)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as news:
        with os.fdopen(write, "wb"):
            command = bubblewrap_command(program, interpreter, limits, RUNNER_SOURCE, write)
            process = _popen(command, user, {}, None, (write,))
        inside = _CHILD.search(_read_news(news.fileno()))

    def kill_inside() -> None:
        # The first process of the namespace: every other one in it ends with it.
        with contextlib.suppress(ProcessLookupError):
            if inside is not None:
                os.kill(int(inside[1]), signal.SIGKILL)

    def kill_rest() -> None:
        if user is not None:
            kill_all(lambda: processes_of(user))

    return SandboxProcess(process, limits, kill_inside, kill_rest)


def _read_news(descriptor: int) -> bytes:
    """What bubblewrap says, until it has started its own first process inside, or has failed."""
    end = time.monotonic() + NEWS_SECONDS
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    news = b""
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        part = os.read(descriptor, 4096)
        if not part:
            break
        news += part
    return news


def launch_limited(limits: Limits, user: int | None, folder: Path) -> SandboxProcess:
    """Start the runner as it is, in a working folder; it sets its limits itself."""
    interpreter = find_interpreter(for_others=user is not None)
    mark = uuid.uuid4().hex
    variables = {**environment(str(interpreter.library), str(folder)), MARK: mark}
    command = [str(interpreter.executable), *PYTHON_FLAGS, RUNNER_SOURCE]
    process = _popen(command, user, variables, folder)

    def kill_inside() -> None:
        kill_children(process.pid)

    def kill_rest() -> None:
        if user is not None:
            kill_user(user)
        else:
            kill_all(lambda: processes_of(os.geteuid(), mark))

    return SandboxProcess(process, limits, kill_inside, kill_rest)


def _popen(
    command: list[str],
    user: int | None,
    variables: dict[str, str],
    folder: Path | None,
    descriptors: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    prefix, arguments = as_user(user)
    return subprocess.Popen(
        [*prefix, *command],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        cwd="/" if folder is None else folder,
        start_new_session=True,
        umask=0o077,
        pass_fds=descriptors,
        **arguments,
    )


@contextlib.contextmanager
def working_folder(user: int | None) -> Iterator[Path]:
    """A temporary folder that belongs to the user."""
    folder = Path(tempfile.mkdtemp(prefix="dschat-program-"))
    try:
        if user is not None:
            os.chown(folder, user, user)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder in which a program may have made others, thousands deep or side by side.

    `rm` needs neither recursion, as `shutil.rmtree` does, nor long.
    """
    try:
        os.rmdir(folder)  # most programs leave nothing
    except OSError:
        subprocess.run(
            ["rm", "-rf", "--", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def allowed_tasks(kind: SandboxKind, limits: Limits, user: int | None) -> int:
    """The limit on processes and threads to set, which counts more than the program's own."""
    tasks = limits.processes + RUNNER_PROCESSES
    if kind == "bwrap":
        tasks += BUBBLEWRAP_PROCESSES
    if user is None and not (kind == "bwrap" and _counts_per_namespace()):
        tasks += count_tasks(os.geteuid())
    return tasks


def _counts_per_namespace() -> bool:
    """Whether the kernel counts a user's processes in each user namespace by itself."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(map(int, numbers)) >= KERNEL_WITH_COUNTS_PER_NAMESPACE
