"""What raw rows look like, one module per family of data sets, and how each becomes `Row`s.

A local file has no name to go by: its schema is found from its columns. The registry is
`DATA_SCHEMAS`; the one that was added last is tried first, so that a plugin's own schema is found
before the built-in ones (`dschat.settings.parts`), which go from the general to the particular.
"""

from __future__ import annotations

from collections.abc import Sequence

from dschat.data.rows import RawRow, Row, RowError
from dschat.data.schemas.base import Schema, column_names, has_columns
from dschat.errors import UserError
from dschat.settings.parts import DATA_SCHEMAS

__all__ = [
    "DATA_SCHEMAS",
    "Row",
    "RowError",
    "Schema",
    "detect_schema",
    "has_columns",
    "schemas",
]


def schemas() -> list[Schema]:
    """All schemas, in the order in which data is compared with them."""
    return [part.load() for part in reversed(DATA_SCHEMAS.parts())]


def detect_schema(sample: Sequence[RawRow], origin: str) -> Schema:
    """The first schema that the first rows of some data fit.

    Raises:
        UserError: none does; the columns found and the known schemas are listed.
    """
    for schema in schemas():
        if schema.matches(sample):
            return schema
    known = "\n".join(f"  {schema.name}: {schema.columns}" for schema in schemas())
    found = ", ".join(sorted(column_names(sample))) or "none"
    raise UserError(
        f"{origin} has columns that no known kind of data has: {found}. Rename them to one of\n"
        f"{known}\nor add a schema of your own with --plugin (docs/extending.md)."
    )
