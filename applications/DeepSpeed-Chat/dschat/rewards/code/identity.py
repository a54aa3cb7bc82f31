"""As whom programs run, and how every process of theirs is found again.

Root is not bound by the limit on processes, and may do too much anyway: a program started by root
runs under a user id that no account has and that one program alone uses at a time.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from dschat.errors import UserError

FREE_USERS = range(50_000, 60_000)
"""User ids below those that distributions and systemd hand out by themselves."""

MARK = "DSCHAT_PROGRAM"
"""The variable in the environment of a program whose user has other processes too."""

KILL_SECONDS = 5.0

_STATE_AND_USERS = re.compile(rb"^State:\s+(\S).*?^Uid:\s+([^\n]*)", re.MULTILINE | re.DOTALL)


@contextlib.contextmanager
def lease_user() -> Iterator[int | None]:
    """A user id for one program while the block runs; None if the process cannot change it.

    Raises:
        UserError: all ids are taken.
    """
    if os.geteuid() != 0 or not _are_mapped(FREE_USERS):
        yield None
        return
    # Not the one just given back: its dead processes may still count.
    first = secrets.randbelow(len(FREE_USERS))
    for user in (*FREE_USERS[first:], *FREE_USERS[:first]):
        # An abstract socket's name is free again when its process ends, however it ends.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind(f"\0dschat-program-user-{user}")
            except OSError:
                continue
            if not _has_account(user):
                yield user
                return
    raise UserError(
        f"All user ids from {FREE_USERS.start} to {FREE_USERS.stop - 1} are taken: generated "
        "programs cannot run as a user of their own. Start as an ordinary user, not as root."
    )


def _are_mapped(users: range) -> bool:
    """Whether these ids exist here: in a rootless container, root is somebody else's only id."""
    with open("/proc/self/uid_map") as file:
        spans = [tuple(map(int, line.split())) for line in file]
    return any(first <= users.start and users.stop <= first + count for first, _, count in spans)


def _has_account(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def as_user(user: int | None) -> tuple[list[str], dict[str, Any]]:
    """What to put before a command, and arguments for `Popen`, to run it as another user.

    `setpriv` is preferred: with `Popen(user=...)` Python forks the whole trainer, page tables and
    all, where otherwise it would not copy anything.
    """
    if user is None:
        return [], {}
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin")
    if setpriv is not None and not os.path.islink(setpriv):  # a link: BusyBox, with few options
        return [setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"], {}
    return [], {"user": user, "group": user, "extra_groups": []}


def processes_of(user: int, mark: str | None = None) -> list[int]:
    """The ids of a user's living processes; with `mark`, only of those begun with this `MARK`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            if _is_alive_as(name, user) and _has_mark(name, mark):
                found.append(int(name))
    return found


def _is_alive_as(process: str, user: int) -> bool:
    """Whether it runs as the user. (Not the folder's owner: a process can make that root.)"""
    with open(f"/proc/{process}/status", "rb") as file:
        found = _STATE_AND_USERS.search(file.read())
    return found is not None and found[1] not in b"ZX" and str(user).encode() in found[2].split()


def _has_mark(process: str, mark: str | None) -> bool:
    if mark is None:
        return True
    with open(f"/proc/{process}/environ", "rb") as file:
        return f"{MARK}={mark}".encode() in file.read().split(b"\0")


def count_tasks(user: int) -> int:
    """How many processes and threads a user has."""
    count = 0
    for process in processes_of(user):
        with contextlib.suppress(OSError):
            count += len(os.listdir(f"/proc/{process}/task"))
    return count


def kill_children(process: int) -> None:
    """Kill the children of a process with one thread, if the kernel tells them."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{process}/task/{process}/children") as file:
            children = list(map(int, file.read().split()))
        for child in children:
            os.kill(child, signal.SIGKILL)


# The kernel does it in one go, where a program that forks and ends all the time escapes from any
# list of processes. That the user is the right one is looked at twice: for root this is the end.
_KILL_ALL = """
while read -r name user others; do
  if [ "$name" = Uid: ] && [ "$user" = "$0" ]; then kill -9 -1; fi
done < /proc/self/status
"""


def kill_user(user: int) -> None:
    """Kill every process of a leased user, and wait until none is left."""
    if user not in FREE_USERS:
        raise ValueError(f"{user} is no leased user")
    prefix, arguments = as_user(user)
    subprocess.run(
        [*prefix, "/bin/sh", "-c", _KILL_ALL, str(user)],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        **arguments,
    )
    kill_all(lambda: processes_of(user))


def kill_all(find: Callable[[], list[int]]) -> None:
    """Kill what `find` finds until it finds nothing twice; stops first, so that nothing multiplies.

    A process that forks and ends while the list is made can escape.
    """
    end = time.monotonic() + KILL_SECONDS
    while (found := find() or find()) and time.monotonic() < end:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, number)
        time.sleep(0.001)
