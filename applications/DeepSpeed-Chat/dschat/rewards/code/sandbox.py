"""The choice of the sandbox, and its start."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from dschat.errors import UserError
from dschat.rewards.code.bubblewrap import find_bubblewrap
from dschat.rewards.code.identity import lease_user
from dschat.rewards.code.launching import (
    SandboxKind,
    allowed_tasks,
    launch_bubblewrap,
    launch_limited,
    working_folder,
)
from dschat.rewards.code.limits import Limits
from dschat.rewards.code.process import SandboxClosedError, SandboxProcess, SandboxTimeoutError

Sandbox = Literal["auto", "bwrap", "limits"]
SANDBOXES: tuple[Sandbox, ...] = get_args(Sandbox)

START_SECONDS = 30.0
START_ATTEMPTS = 3

NOT_ISOLATED = (
    "Generated programs run without bubblewrap, under limits only ({reason}). Not isolated are "
    "sockets, the reading of every file that {whom} may read, test cases on the disk included, "
    "writing to folders open to all{more}. Install bubblewrap (package bubblewrap, and user "
    "namespaces allowed), or start the training in a container that holds nothing else."
)


@functools.cache
def choose_sandbox(choice: Sandbox) -> SandboxKind:
    """The sandbox to use, tried once.

    "bwrap" is bubblewrap, "limits" means resource limits alone (as a user of its own if started
    by root), "auto" takes bubblewrap if it works. Where limits alone are taken, a warning says
    once what is not isolated.

    Raises:
        UserError: an unknown choice, "bwrap" where it does not work, or no Linux.
    """
    if choice not in SANDBOXES:
        raise UserError(f"Unknown sandbox {choice!r}; expected one of {', '.join(SANDBOXES)}.")
    if not sys.platform.startswith("linux"):
        raise UserError(
            f"Generated programs are run on Linux only; this is {sys.platform}. Train on Linux."
        )
    problem = "as asked for" if choice == "limits" else _problem("bwrap")
    if problem is None:
        return "bwrap"
    if choice == "bwrap":
        raise UserError(
            f"The sandbox bwrap was asked for, but it does not work: {problem}. Install the "
            "package bubblewrap and allow user namespaces (sysctl user.max_user_namespaces; in a "
            "container: its seccomp profile), or take the sandbox limits, which isolates less."
        )
    if (failure := _problem("limits")) is not None:
        raise UserError(f"Generated programs cannot be run here: {failure}.")
    with lease_user() as user:
        own = user is not None
    warnings.warn(
        NOT_ISOLATED.format(
            reason=problem,
            whom="every user" if own else "you",
            more="" if own else ", and your own other processes, which a program may kill",
        ),
        RuntimeWarning,
        stacklevel=3,
    )
    return "limits"


def _problem(kind: SandboxKind) -> str | None:
    """Why a kind of sandbox cannot be used here; None if a trial succeeds."""
    if kind == "bwrap" and find_bubblewrap() is None:
        return "bubblewrap is not installed"
    limits = Limits(test_seconds=START_SECONDS)
    try:
        with start_sandbox(kind, limits, "print(input())", None) as (sandbox, message):
            if message is not None:
                return message
            execution = sandbox.run("works", START_SECONDS)
    except (UserError, SandboxClosedError, SandboxTimeoutError) as error:
        return str(error)
    if execution.output != b"works\n":
        return f"a trial gave {execution.output!r} and {execution.errors!r}"
    return None


@contextlib.contextmanager
def start_sandbox(
    kind: SandboxKind, limits: Limits, program: str, function: str | None
) -> Iterator[tuple[SandboxProcess, str | None]]:
    """A new sandbox with a program compiled in it, and the compiler's message or None.

    At the block's end every process in it is killed and its working folder removed.

    Args:
        kind: as from `choose_sandbox`.
        function: see `SandboxProcess.compile`.

    Raises:
        UserError: the sandbox does not start, several times.
    """
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(lease_user())
        folder = stack.enter_context(working_folder(user)) if kind == "limits" else None
        sandbox = _started(kind, limits, user, folder)
        stack.callback(sandbox.close)
        yield sandbox, sandbox.compile(program, function, allowed_tasks(kind, limits, user))


def _started(
    kind: SandboxKind, limits: Limits, user: int | None, folder: Path | None
) -> SandboxProcess:
    for attempt in range(1, START_ATTEMPTS + 1):
        if folder is None:
            sandbox = launch_bubblewrap(limits, user)
        else:
            sandbox = launch_limited(limits, user, folder)
        try:
            sandbox.wait_until_ready(START_SECONDS)
            return sandbox
        except (SandboxClosedError, SandboxTimeoutError) as error:
            reason = sandbox.last_words() or str(error) or "no answer"
            sandbox.close()
            if attempt == START_ATTEMPTS:
                raise UserError(
                    f"The sandbox {kind} for generated programs does not start: {reason}. Is "
                    "there memory left, and may this user start processes?"
                ) from error
        except BaseException:
            sandbox.close()
            raise
    raise AssertionError("unreachable")
