"""Raw rows from local files or `datasets`, with the place of each row and the content's hash."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dschat.data.rows import RawRow, RowError
from dschat.errors import UserError, too_deep

if TYPE_CHECKING:
    import datasets

# In the order in which they are taken if a folder has the same split in several formats.
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
READ_BATCH = 500


def data_suffix(path: Path) -> str:
    """Which of `SUFFIXES` a file's name ends in; "" for none."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


class RawTable(Protocol):
    """The raw rows of one split."""

    fingerprint: str

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Iterator[RawRow | RowError]:
        """The rows with these numbers, in this order; an unreadable row is its problem."""
        ...

    def place(self, index: int) -> str:
        """Where to find a row, for a person with an editor: "train.jsonl, line 3"."""
        ...


class JsonTable:
    """Rows of JSON files, parsed when they are read: a broken line costs only itself."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._rows: list[bytes | Any] = []
        self._places: list[tuple[str, str, int]] = []
        digest = hashlib.sha256()
        for path in files:
            try:
                content = path.read_bytes()
                if path.suffix.lower() == ".gz":
                    content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"The data file {path} cannot be read: {error}") from error
            self._append(path, content)
            # Of the bytes that were read: the file may change at any time.
            digest.update(hashlib.sha256(content).digest())
        self.fingerprint = digest.hexdigest()

    def _append(self, path: Path, content: bytes) -> None:
        content = content.removeprefix(codecs.BOM_UTF8)
        if content.lstrip()[:1] == b"[":
            try:
                rows: list[Any] = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise UserError(f"The data file {path} is not a JSON list: {error}") from error
            numbered = list(enumerate(rows, start=1))
            unit = "item"
        else:
            lines = enumerate(content.split(b"\n"), start=1)
            numbered = [(number, line) for number, line in lines if line.strip()]
            unit = "line"
        self._rows.extend(row for _, row in numbered)
        self._places.extend((path.name, unit, number) for number, _ in numbered)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> Iterator[RawRow | RowError]:
        for index in indices:
            row = self._rows[index]
            if isinstance(row, bytes):
                try:
                    row = json.loads(row)
                except UnicodeDecodeError:
                    yield RowError("not UTF-8 text")
                    continue
                except (ValueError, RecursionError):
                    yield RowError("not valid JSON")
                    continue
            if not isinstance(row, dict):
                yield RowError("not a JSON object")
            else:
                yield RowError("values nested too deeply") if too_deep(row) else row

    def place(self, index: int) -> str:
        name, unit, number = self._places[index]
        return f"{name}, {unit} {number}"


class ArrowTable:
    """Rows of a `datasets.Dataset` (parquet, a saved folder, the hub)."""

    def __init__(self, dataset: datasets.Dataset, fingerprint: str, name: str) -> None:
        self._dataset = dataset
        self._name = name
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, indices: Sequence[int]) -> Iterator[RawRow | RowError]:
        for start in range(0, len(indices), READ_BATCH):
            batch = self._dataset.select(list(indices[start : start + READ_BATCH]))
            yield from batch.to_list()

    def place(self, index: int) -> str:
        return f"{self._name}, row {index + 1}"


def fingerprint_files(files: Sequence[Path]) -> str:
    """A hash of the files' contents, in order; not of their names or times."""
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_files(files: Sequence[Path]) -> RawTable:
    """The rows of one split's files, all JSON or all parquet.

    Raises:
        UserError: a file cannot be read, or has another format.
    """
    suffixes = {data_suffix(path) for path in files}
    if suffixes <= set(SUFFIXES) - {".parquet"}:
        return JsonTable(files)
    if suffixes == {".parquet"}:
        import datasets
        import pyarrow as pa
        from pyarrow import parquet

        try:
            shards = [parquet.read_table(path, partitioning=None) for path in files]
            # A column that is empty in one shard has the type null there.
            table = pa.concat_tables(shards, promote_options="permissive")
        except (OSError, pa.ArrowException) as error:
            names = ", ".join(map(str, files))
            raise UserError(f"The parquet data {names} cannot be read: {error}") from error
        return ArrowTable(datasets.Dataset(table), fingerprint_files(files), files[0].name)
    names = ", ".join(str(path) for path in files)
    raise UserError(f"{names}: expected files that end in {', '.join(SUFFIXES)}.")


def first_problem(table: RawTable) -> str | None:
    """What is wrong with the first row, and where: "not valid JSON (a.jsonl, line 1)"."""
    row = next(iter(table.read(range(min(1, len(table))))), None)
    return f"{row} ({table.place(0)})" if isinstance(row, RowError) else None


def sample_rows(table: RawTable, count: int = 100) -> list[RawRow]:
    """The first readable rows, from which the schema is found."""
    rows = table.read(range(min(count, len(table))))
    return [row for row in rows if not isinstance(row, RowError)]
