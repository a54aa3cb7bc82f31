"""A schema: the columns of a family of data sets and the way from a raw row to `Row`s."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dschat.data.rows import PHASES, Phase, RawRow, Row


@dataclass(frozen=True)
class Schema:
    """How one family of data sets is read.

    Attributes:
        name: stands in messages and in the cache's key.
        columns: the columns in words, for messages.
        matches: whether the first rows of some data are of this schema.
        rows: the `Row`s of one raw row for a phase; raises `RowError` if it cannot be used.
        chat: prompts are chat messages, not text.
        phases: what the data can be used for (pairs are needed for "reward").
    """

    name: str
    columns: str
    matches: Callable[[Sequence[RawRow]], bool]
    rows: Callable[[RawRow, Phase], list[Row]]
    chat: bool = False
    phases: tuple[Phase, ...] = PHASES


def column_names(sample: Sequence[RawRow]) -> set[str]:
    """The names of all columns in the rows; rows of JSON need not all have the same."""
    return {name for row in sample for name in row}


def has_columns(*names: str) -> Callable[[Sequence[RawRow]], bool]:
    """A test for `Schema.matches`: all these columns are there."""
    return lambda sample: set(names) <= column_names(sample)


def code_of(schema: Schema) -> dict[str, Any]:
    """What the cache's key holds of a user's schema: a hash of the file that defines it.

    Rows made by an older version of the file are then not used again. {} for a built-in schema,
    whose version is the cache's own (`dschat.data.cache.FORMAT_VERSION`).
    """
    function = inspect.unwrap(schema.rows)
    if function.__module__.split(".")[0] == "dschat":
        return {}
    source = Path(inspect.getfile(function)).read_bytes()
    return {"code": hashlib.sha256(source).hexdigest()}
