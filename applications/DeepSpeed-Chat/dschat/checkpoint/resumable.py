"""Folders of resumable checkpoints: complete or not there, verified before they are used.

A checkpoint is a folder output_dir/resumable-N. Its `complete.json` comes last and holds the size
and the CRC-32 of every other file, the settings of the run, what it ran on, and its own CRC-32. A
folder without it, or with files that do not agree with it, is never resumed from.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dschat.data import clock
from dschat.errors import UserError
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import atomic_directory
from dschat.runtime.run_files import library_versions, plain_settings

SEAL = "complete.json"
FORMAT = 2
"""Of the files in a checkpoint: one of another format is refused."""
NAME = re.compile(r"resumable-(\d+)")
LEFTOVERS = [f".{name}*.tmp-*" for name in ("resumable-", "step-", "step_", "checkpoint-")]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder: where it lies.
        step: the N of its name.
        settings: of the run that wrote it, as plain values.
        run: what it ran on (`world_size`, `versions`, and what the writer added), and `clock`: the
            time that chat templates are told.
    """

    folder: Path
    step: int
    settings: dict[str, Any]
    run: dict[str, Any]


class OtherFormatError(UserError):
    """A checkpoint that another version of this package wrote."""


def _checksum(path: Path) -> list[int]:
    """[bytes, CRC-32] of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return [size, crc]


def _names(folder: Path) -> list[str]:
    """Of all files in a checkpoint but its seal."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != SEAL
    )


def _checksums(folder: Path) -> dict[str, list[int]]:
    """By name; the ranks share the work. All of them call this and get the same.

    Raises:
        UserError: on all ranks: a rank cannot read a file, or sees other files than another.
    """
    names: list[str] = []
    with on_all_ranks():
        names = _names(folder)
    if any(other != names for other in distributed.gather_objects(names)):
        raise UserError(
            f"{folder.parent} is not the same folder for all ranks. Give an --output_dir on a disk "
            "that all machines share."
        )
    found: dict[str, list[int]] = {}
    with on_all_ranks():
        mine = names[distributed.rank() :: distributed.world_size()]
        found = {name: _checksum(folder / name) for name in mine}
    return {name: sums for part in distributed.gather_objects(found) for name, sums in part.items()}


def _check_sizes(folder: Path, files: dict[str, list[int]]) -> None:
    """A last look before the folder gets its name; raises `UserError`."""
    for name, (size, _) in files.items():
        found = (folder / name).stat().st_size
        if found != size:
            raise UserError(f"{folder / name} has {found} bytes, expected {size}: the disk fails.")


def seal(
    folder: Path, step: int, config: Any, files: dict[str, list[int]] | None = None, **run: Any
) -> None:
    """Write `complete.json` over the files in `folder`, after which it counts as complete.

    Args:
        step: the N of resumable-N.
        config: the settings of the run, a dataclass.
        files: checksums by name; None: they are made here.
        run: further facts that a resumed run must share (plain values).
    """
    if files is None:
        files = {name: _checksum(folder / name) for name in _names(folder)}
    value = {
        "format": FORMAT,
        "step": step,
        "files": files,
        "settings": plain_settings(config),
        "run": {
            "world_size": distributed.world_size(),
            "versions": library_versions(),
            "clock": clock.frozen(),
            **run,
        },
    }
    value["checksum"] = _own_checksum(value)
    (folder / SEAL).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _own_checksum(value: dict[str, Any]) -> int:
    """CRC-32 of what a seal says, its checksum aside, however its JSON is laid out."""
    said = {name: part for name, part in value.items() if name != "checksum"}
    return zlib.crc32(json.dumps(said, sort_keys=True).encode("utf-8"))


def read(folder: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        UserError: it is not one, or it is damaged (which file, and why).
        OtherFormatError: another version wrote it.
    """
    folder = Path(folder)
    try:
        value = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        # Format 1 had none at first.
        if value.get("checksum") not in (None, _own_checksum(value)):
            raise ValueError("what it says is not what was written")
        step, files = int(value["step"]), dict(value["files"])
        checkpoint = Checkpoint(folder, step, dict(value["settings"]), dict(value["run"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder} is not a complete checkpoint: {SEAL} cannot be read ({error}). Give a "
            "folder resumable-N that a run has finished writing, or auto."
        ) from error
    if value.get("format") != FORMAT:
        raise OtherFormatError(
            f"{folder} was saved by another version of this package (format "
            f"{value.get('format', 1)}, expected {FORMAT}). Resume it with that version, or start "
            "a new run in another --output_dir."
        )
    for name, expected in files.items():
        try:
            found = _checksum(folder / name)
        except OSError as error:
            raise UserError(f"{folder} is damaged: {name} cannot be read ({error}).") from error
        if found != expected:
            raise UserError(
                f"{folder} is damaged: {name} has {found[0]} bytes and checksum {found[1]}, "
                f"expected {expected[0]} and {expected[1]}. Give an older checkpoint."
            )
    return checkpoint


def _numbered(output_dir: str | Path) -> list[tuple[int, Path]]:
    """(N, folder) of everything called resumable-N, the newest first."""
    found = [(NAME.fullmatch(path.name), path) for path in Path(output_dir).glob("resumable-*")]
    return sorted(((int(m[1]), path) for m, path in found if m), reverse=True)


def choose(output_dir: str | Path, request: str | None) -> Checkpoint | None:
    """The checkpoint to resume from; every rank calls this and gets the same.

    Args:
        request: the value of --resume_from_checkpoint.

    Returns:
        None: nothing was asked for, or "auto" found no complete checkpoint.

    Raises:
        UserError: (on all ranks) the named checkpoint is not complete, or of another format.
    """
    if request is None:
        return None
    found: Checkpoint | None = None
    with on_all_ranks():
        if distributed.is_main():
            found = _newest(output_dir) if request == "auto" else read(request)
    return distributed.broadcast_object(found)


def _newest(output_dir: str | Path) -> Checkpoint | None:
    for _, folder in _numbered(output_dir):
        try:
            return read(folder)
        except OtherFormatError:
            raise
        except UserError as error:
            distributed.log_main(f"WARNING: skipped: {error}")
    distributed.log_main(
        f"--resume_from_checkpoint auto: no checkpoint in {output_dir}; starting a new run."
    )
    return None


def refuse_old_checkpoints(output_dir: str | Path) -> None:
    """Refuse to start a new run beside the checkpoints of another one.

    Raises:
        UserError: names the newest and says how to resume from it.
    """
    old = _numbered(output_dir)
    if old:
        raise UserError(
            f"--output_dir {output_dir} already holds {old[0][1].name} of another run. Add "
            "--resume_from_checkpoint auto to resume from it, or give another folder."
        )


@contextlib.contextmanager
def new_checkpoint(output_dir: str | Path, step: int, config: Any, **run: Any) -> Iterator[Path]:
    """Yield a temporary folder that becomes output_dir/resumable-N; all ranks enter and write.

    The block must not raise on one rank while others wait in a collective operation. When it has
    ended on all ranks the files are read back and sealed, and the folder gets its name.

    Raises:
        UserError: on all ranks, with the first failure; nothing is left behind.
    """
    final = Path(output_dir).absolute() / f"resumable-{step}"
    with contextlib.ExitStack() as stack:
        folder: Path | None = None
        with on_all_ranks():
            if distributed.is_main():
                folder = stack.enter_context(atomic_directory(final))
        folder = distributed.broadcast_object(folder)
        assert folder is not None
        with on_all_ranks():
            yield folder
        # Every file is read back once, for its checksum.
        files = _checksums(folder)
        # A failure of the sealing or the renaming must reach all ranks as well.
        with on_all_ranks():
            if distributed.is_main():
                seal(folder, step, config, files, **run)
                _check_sizes(folder, files)
                stack.close()


def prune(output_dir: str | Path, keep: int, step: int) -> None:
    """Remove all checkpoints but the one just written at `step` and the `keep` - 1 before it.

    Those with higher numbers are damaged ones that were skipped, or of a course that was given up
    for an older checkpoint; counted, they would push out the one just written.
    """
    if not distributed.is_main():
        return
    found = _numbered(output_dir)
    kept = [folder for number, folder in found if number <= step][:keep]
    for _, folder in found:
        if folder in kept:
            continue
        # Without its seal a folder that is half removed is not picked up.
        with contextlib.suppress(OSError):
            (folder / SEAL).unlink()
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(output_dir: str | Path) -> None:
    """Remove temporary folders of checkpoints and models that a killed run left behind."""
    if not distributed.is_main():
        return
    for pattern in (*LEFTOVERS, ".model-*"):
        for folder in Path(output_dir).glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
