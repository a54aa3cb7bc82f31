"""The bubblewrap command: https://github.com/containers/bubblewrap.

All namespaces are the program's own: no network, no other process, no other user. The file system
is read-only and holds the interpreter without its packages and the system's libraries, and a small
/tmp of the program's own. There is no /proc, so that not even the runner's descriptors are in view.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from dschat.rewards.code.interpreter import Interpreter
from dschat.rewards.code.limits import MEBIBYTE, Limits

HOME = "/python"
"""Where the interpreter is inside, wherever it is outside."""

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")

PYTHON_FLAGS = ("-I", "-S", "-B", "-c")
"""No packages, nothing from the environment or the working folder, no byte code written."""


def find_bubblewrap() -> str | None:
    """The path of the program; None if it is not installed."""
    return shutil.which("bwrap")


@functools.cache
def _can_disable_user_namespaces(program: str) -> bool:
    """`--disable-userns` came with version 0.8."""
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return "--disable-userns" in help_text.stdout


def bubblewrap_command(
    program: str, interpreter: Interpreter, limits: Limits, source: str, news: int
) -> list[str]:
    """The command that runs Python source in a new sandbox.

    Args:
        program: bubblewrap's path.
        source: given to the interpreter by `-c`.
        news: the descriptor to which bubblewrap writes its first process's id, as JSON.
    """
    size = str(limits.scratch_mb * MEBIBYTE)
    command = [program, "--unshare-all", "--unshare-user", "--info-fd", str(news)]
    if _can_disable_user_namespaces(program):
        command.append("--disable-userns")
    command += ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for path in SYSTEM_LIBRARIES:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    executable = f"{HOME}/bin/{interpreter.executable.name}"
    library = f"{HOME}/{interpreter.library.name}"
    command += ["--ro-bind", str(interpreter.executable), executable]
    command += ["--ro-bind", str(interpreter.library), library]
    for folder in interpreter.packages:
        inside = f"{library}/{folder.relative_to(interpreter.library)}"
        command += ["--tmpfs", inside, "--remount-ro", inside]
    command += ["--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    command += ["--size", size, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in environment(library, "/tmp").items():
        command += ["--setenv", name, value]
    return [*command, "--", executable, *PYTHON_FLAGS, source]


def environment(library: str, home: str) -> dict[str, str]:
    """The whole environment of a program.

    `LD_LIBRARY_PATH` is for an interpreter that is not where it was built for.
    """
    return {"HOME": home, "LANG": "C.UTF-8", "LD_LIBRARY_PATH": library, "TMPDIR": home}
