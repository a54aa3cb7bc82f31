"""Normalised rows on disk: an entry is complete and verified, or it is made again.

An entry is a folder named by a hash of all that decides its content. It is written under another
name and renamed when it is complete, so any number of processes may make the same one at once; the
first one stays. Every read checks the files' hashes, so a torn entry is found and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dschat.data.tables import sha256_of
from dschat.errors import UserError
from dschat.runtime.files import atomic_directory

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

logger = logging.getLogger(__name__)

# Raise it whenever what is made of a raw row changes: older entries are then not found any more.
FORMAT_VERSION = 2
SPLITS = ("train", "eval")
META_FILE = "meta.json"
ROWS_PER_BATCH = 500
# A reader and a writer that replaces a torn entry can miss each other, but not again and again.
ATTEMPTS = 5


@dataclass(frozen=True)
class CacheEntry:
    """The rows of both splits, memory-mapped, and what was stored beside them."""

    train: datasets.Dataset
    eval: datasets.Dataset
    report: dict[str, Any]


def entry_folder(folder: Path, key: Mapping[str, Any]) -> Path:
    """The folder of the entry that `key` (JSON values) decides the content of."""
    text = json.dumps({"format": FORMAT_VERSION, **key}, sort_keys=True)
    return folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def arrow_schema(chat: bool) -> pa.Schema:
    """The columns of an entry; see `load_data`."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("prompt", pa.list_(message) if chat else pa.string()),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("example", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
        ]
    )


def read_or_write(
    path: Path,
    schema: pa.Schema,
    make: Callable[[], tuple[Mapping[str, Iterable[dict[str, Any]]], Callable[[], dict]]],
) -> CacheEntry:
    """Read the entry at `path`; if it is not there or torn, make it first.

    Args:
        path: see `entry_folder`.
        schema: of both splits' rows.
        make: called only if needed: the rows of "train" and "eval", and a function that gives the
            report once they have been consumed (train before eval).

    Raises:
        UserError: the entry cannot be written, or whatever `make` raises.
    """
    for _ in range(ATTEMPTS):
        # Asked first: an entry that another process publishes during the read is not torn.
        was_there = path.exists()
        entry = _read(path)
        if entry is not None:
            return entry
        if was_there:
            logger.warning("the cached data in %s is not complete: it is made again", path)
            shutil.rmtree(path, ignore_errors=True)
        with atomic_directory(path, replace=False) as temporary:
            splits, report = make()
            files = {
                name: _write_split(temporary / f"{name}.arrow", schema, splits[name])
                for name in SPLITS
            }
            meta = {"files": files, "report": report()}
            (temporary / META_FILE).write_text(json.dumps(meta), encoding="utf-8")
    raise UserError(
        f"The cached data in {path} cannot be read back after it has been written {ATTEMPTS} "
        "times. Give another --data_output_path, on a disk that works."
    )


def _write_split(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    import pyarrow as pa

    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in _batches(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            count += len(batch)
    return {"rows": count, "sha256": sha256_of(path)}


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, ROWS_PER_BATCH)):
        yield batch


def _read(path: Path) -> CacheEntry | None:
    """The entry, or None if it is absent or not as it was written."""
    import datasets
    import pyarrow as pa

    try:
        meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        loaded = {}
        for name in SPLITS:
            file, expected = path / f"{name}.arrow", meta["files"][name]
            if sha256_of(file) != expected["sha256"]:
                return None
            loaded[name] = datasets.Dataset.from_file(str(file))
            if len(loaded[name]) != expected["rows"]:
                return None
        return CacheEntry(loaded["train"], loaded["eval"], meta["report"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
