"""The Python that programs run under: the one that runs the trainer, without its packages.

An unprivileged user has to be able to read it. Where it lies in a closed folder, such as root's
home, its standard library is linked or copied to a temporary folder first.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dschat.errors import UserError

_LEFT_OUT = shutil.ignore_patterns(
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "config-*",
    "pydoc_data",
)


@dataclass(frozen=True)
class Interpreter:
    """A Python installation.

    Attributes:
        executable: the program.
        library: the folder that holds `pythonX.Y` and the shared libraries of the installation.
    """

    executable: Path
    library: Path

    @property
    def packages(self) -> list[Path]:
        """Folders of installed packages inside `library`."""
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        folders = (self.library / version / "site-packages", self.library / "python3/dist-packages")
        return [folder for folder in folders if folder.is_dir()]


@functools.cache
def find_interpreter(for_others: bool) -> Interpreter:
    """The running interpreter, or a copy of it.

    Args:
        for_others: it must be readable by every user.

    Raises:
        UserError: it is not, and temporary files are not either.
    """
    executable = Path(os.path.realpath(sys.executable))
    library = Path(os.path.realpath(sys.base_prefix)) / sys.platlibdir
    interpreter = Interpreter(executable, library)
    if not for_others or (_is_open(executable) and _is_open(library)):
        return interpreter
    copy = _copy(interpreter)
    if not _is_open(copy.executable):
        raise UserError(
            f"Generated programs run as an unprivileged user, who can read neither {executable} "
            f"nor its copy in {copy.library.parent}. Set TMPDIR to a folder that every user can "
            "enter, or install Python in one."
        )
    return copy


def _is_open(path: Path) -> bool:
    """Whether every user may read a file or folder and enter all folders above it."""
    above = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
    return above and bool(path.stat().st_mode & stat.S_IROTH)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork that ends earlier
        shutil.rmtree(folder, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target


def _copy(original: Interpreter) -> Interpreter:
    """The interpreter and its standard library in a temporary folder, removed at the exit."""
    folder = Path(tempfile.mkdtemp(prefix="dschat-python-"))
    atexit.register(_remove, folder, os.getpid())
    folder.chmod(0o755)
    copy = Interpreter(folder / "bin" / original.executable.name, folder / "lib")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    copy.executable.parent.mkdir()
    _link_or_copy(str(original.executable), str(copy.executable))
    shutil.copytree(
        original.library / version,
        copy.library / version,
        copy_function=_link_or_copy,
        ignore=_LEFT_OUT,
    )
    for name in _own_libraries(original):
        _link_or_copy(os.path.realpath(original.library / name), str(copy.library / name))
    return copy


def _own_libraries(interpreter: Interpreter) -> list[str]:
    """Names of the shared libraries that come from the installation itself, as with conda."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    modules = (interpreter.library / version / "lib-dynload").glob("*.so")
    listing = subprocess.run(
        ["ldd", str(interpreter.executable), *map(str, modules)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    ).stdout
    names = {line.split()[0] for line in listing.splitlines() if " => " in line}
    # Threads load it when they end; no binary names it.
    names.add("libgcc_s.so.1")
    return sorted(name for name in names if (interpreter.library / name).exists())
