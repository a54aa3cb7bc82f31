"""How every script runs and ends: errors of the user on one line, and a clean exit.

Nothing here imports torch.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from dschat.errors import (
    EXIT_OUTPUT_LOST,
    UserError,
    closed_pipe_ends_quietly,
    one_line,
    printable,
)
from dschat.runtime.launchers import adopt_launcher

# How long other ranks wait before they report an error: the launcher polls every second, and
# rank 0 may be some seconds behind while starting up.
SECONDS_FOR_RANK_0 = 10.0


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; a `UserError` becomes one message and exit code 1.

    Output that nobody reads any more (`| head`) ends it without a traceback, with code 120.
    """
    try:
        log_printable()
        adopt_launcher()
        with closed_pipe_ends_quietly():
            main()
        if "torch" in sys.modules and is_outermost(sys._getframe(1)):
            leave()
    except UserError as error:
        given = os.environ.get("RANK", "0")
        rank = int(given) if given.isdecimal() else 0
        if rank > 0:
            # Most errors are the same on all ranks, and the launcher ends the others as soon as
            # rank 0 has reported it: only an error that rank 0 does not have is reported here.
            time.sleep(SECONDS_FOR_RANK_0)
        prefix = "error" if rank == 0 else f"error (rank {rank})"
        print(f"\n{prefix}: {one_line(str(error))}", file=sys.stderr, flush=True)
        # Other ranks may be waiting in a collective: the launcher ends them when this one exits,
        # and a normal interpreter shutdown could wait for them instead.
        sys.stdout.flush()
        os._exit(1)


class _PrintableRecord(logging.LogRecord):
    """A line of a log, whichever library writes it, may quote data, names and answers."""

    def getMessage(self) -> str:  # noqa: N802 (logging's own name)
        return printable(super().getMessage())


def log_printable() -> None:
    """From now on every logger's messages are `printable`."""
    logging.setLogRecordFactory(_PrintableRecord)


def is_outermost(frame: FrameType | None) -> bool:
    """Whether only Python itself runs the module of this frame, by its path or with -m.

    Not so under a profiler, a debugger or `runpy`: who called has work of its own to do after it.
    The module may have called one of `dschat.commands`.
    """
    while frame is not None and frame.f_globals["__name__"].startswith("dschat.commands."):
        frame = frame.f_back
    script = frame.f_globals if frame is not None else None
    while frame is not None and frame.f_globals is script:
        frame = frame.f_back
    while frame is not None and frame.f_globals["__name__"] == "runpy":  # -m
        frame = frame.f_back
    return frame is None


def leave() -> NoReturn:
    """End a process that has done its work, without taking the interpreter down around C++ threads.

    Threads of torch's process groups may still hold Python objects then. One that asks for the
    interpreter's lock while it is being finalised is ended by it, which C++ answers with
    "terminate called without an active exception": a finished run that ends with code -6.
    All else is as at the interpreter's own end: pools are shut down and threads waited for, what
    is registered with `atexit` runs, and output that cannot be written makes the exit code 120.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:  # a full disk, or a pipe that nobody reads any more
            code = EXIT_OUTPUT_LOST
    os._exit(code)
