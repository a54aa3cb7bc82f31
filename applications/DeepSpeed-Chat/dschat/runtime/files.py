"""Files that are either complete or not there under their name; JSON lines; a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dschat.errors import UserError

# torch.save and safetensors raise errors of their own, without errno, when the disk is full.
BYTE_ORDER_MARK = "\ufeff"
NEARLY_FULL_BYTES = 1 << 20
FULL_ERRNOS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
REFUSED_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def temporary_sibling(path: Path) -> Path:
    """A hidden name beside `path`: renaming is atomic only within one file system.

    The process id alone is not enough: containers on one shared file system use the same ids.
    """
    return path.parent / f".{path.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _is_disk_full(error: BaseException, folder: Path) -> bool:
    link: BaseException | None = error
    while link is not None:
        if getattr(link, "errno", None) in FULL_ERRNOS or "no space left" in str(link).lower():
            return True
        link = link.__cause__ or link.__context__
    try:
        return isinstance(error, RuntimeError) and (
            shutil.disk_usage(folder).free < NEARLY_FULL_BYTES
        )
    except OSError:
        return False


@contextlib.contextmanager
def explain_write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk or a refused write below `path` into a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        folder = Path(path).absolute().parent
        if _is_disk_full(error, folder):
            raise UserError(
                f"The disk is full: {path} could not be written ({error}). Nothing half-written is "
                "left under that name. Free some space there, or give an --output_dir (for cached "
                "data a --data_output_path) on another disk, and start again."
            ) from error
        if _is_refused_write(error, folder):
            raise UserError(
                f"{path} could not be written: {error}. Give another path, in a folder that this "
                "user may write to."
            ) from error
        raise


def _is_refused_write(error: BaseException, folder: Path) -> bool:
    if not isinstance(error, OSError) or error.errno not in REFUSED_ERRNOS:
        return False
    if error.filename is None:
        return False
    # What the block reads elsewhere may be refused too: that is another error. A parent folder
    # that cannot be made lies above.
    refused, folder = Path(error.filename).absolute(), folder.absolute()
    return refused.is_relative_to(folder) or folder.is_relative_to(refused)


def require_folder(path: str | os.PathLike[str], flag: str) -> None:
    """Refuse a path that is no folder and cannot become one, before any work is done for it.

    Args:
        path: what the user gave. flag: the flag's name, for the message.

    Raises:
        UserError: it or what it lies in is a file, or may not be written to.
    """
    whole = Path(path).absolute()
    there = next(folder for folder in (whole, *whole.parents) if os.path.lexists(folder))
    where = "it" if there == whole else f"{there}"
    if not there.is_dir():
        raise UserError(f"--{flag} {path}: {where} is no folder. Give a folder or a free name.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"--{flag} {path}: {where} may not be written to by this user. Give another folder."
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8): a reader, or a crash, sees the whole old file or the whole new one.

    Parent folders are made.

    Raises:
        UserError: the disk is full or the folder may not be written to.
    """
    path = Path(os.path.abspath(path))
    temporary = temporary_sibling(path)
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _fsync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that UTF-8 can hold: halves of surrogate pairs, which JSON's own escapes can
    bring into a text, are written as such escapes again.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON; see `atomic_write_text`."""
    atomic_write_text(path, json_text(value, indent=2) + "\n")


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it gets that name once the block has succeeded.

    All files are flushed to the disk first. A folder that had the name is replaced, and put back
    if the renaming fails; with `replace=False` it is kept and the new one dropped. If the block
    raises, the temporary folder is removed and `path` is as it was. Where several ranks write into
    one folder, one of them opens it and tells the others.

    Raises:
        UserError: the disk is full, the folder may not be written to, or `path` is a file.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; expected a folder or a free name. Give another path.")
    temporary = temporary_sibling(path)
    try:
        # How full the disk is must be seen before the temporary folder is removed.
        with explain_write_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            give_ordinary_permissions(temporary)
            for folder, _, files in os.walk(temporary, topdown=False):
                for name in files:
                    _fsync(Path(folder, name))
                _fsync(Path(folder))
            _publish(temporary, path, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def give_ordinary_permissions(folder: Path) -> None:
    """Let the files below be read by whom the umask says: safetensors keeps its own private.

    Args:
        folder: made by `mkdir`, so that its own permissions tell the umask.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    """Give `temporary` the name `path`. A folder that is not empty cannot be renamed over."""
    replaced = temporary.with_name(temporary.name + "-replaced")
    while True:
        if replace:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, replaced)
        try:
            os.rename(temporary, path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if replaced.exists():
                    os.rename(replaced, path)
                raise
            if not replace:
                return
            # Another process gave its own folder the name in between: ours is the newer one.
            shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    _fsync(path.parent)


def read_jsonl(path: str | os.PathLike[str], drop_torn_end: bool = False) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; blank lines are skipped.

    Args:
        drop_torn_end: leave out a last line that a kill has cut short.

    Raises:
        UserError: the file cannot be read, or a line is not a JSON object (its number is given).
    """
    rows: list[dict[str, Any]] = []
    try:
        # Windows begins files with a byte order mark; joined files have it before other lines too.
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(BYTE_ORDER_MARK)
                if drop_torn_end and not line.endswith("\n") and not _is_json(line):
                    break
                if line.strip():
                    rows.append(_json_object(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    return rows


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    # Not its subclass alone: a number of very many digits is another ValueError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}. Expected one object a line.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} holds a {type(row).__name__}; expected an object {{...}}.")
    return row


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, UTF-8, atomically; see `atomic_write_text`."""
    atomic_write_text(path, "".join(json_text(row) + "\n" for row in rows))
