"""What raw rows look like, one module per family of data sets, and how each becomes `Row`s.

A local file has no name to go by: its schema is found from its columns, in the order of `SCHEMAS`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dschat.data.rows import RawRow
from dschat.data.schemas.apps import APPS
from dschat.data.schemas.base import Schema, column_names
from dschat.data.schemas.conversations import CHAT_COMPLETIONS, COMPLETIONS, CONVERSATIONS
from dschat.data.schemas.gsm8k import GSM8K
from dschat.data.schemas.preferences import CHAT_PREFERENCES, DIALOGUES, PREFERENCES
from dschat.data.schemas.summaries import SUMMARIES
from dschat.data.schemas.webgpt import WEBGPT
from dschat.errors import UserError

SCHEMAS: tuple[Schema, ...] = (
    SUMMARIES,
    WEBGPT,
    APPS,
    GSM8K,
    CHAT_COMPLETIONS,
    COMPLETIONS,
    CONVERSATIONS,
    CHAT_PREFERENCES,
    DIALOGUES,
    PREFERENCES,
)

__all__ = ["SCHEMAS", "Schema", "detect_schema"]


def detect_schema(sample: Sequence[RawRow], origin: str) -> Schema:
    """The first schema that the first rows of some data fit.

    Raises:
        UserError: none does; the columns found and the known schemas are listed.
    """
    for schema in SCHEMAS:
        if schema.matches(sample):
            return schema
    known = "\n".join(f"  {schema.name}: {schema.columns}" for schema in SCHEMAS)
    found = ", ".join(sorted(column_names(sample))) or "none"
    raise UserError(
        f"{origin} has columns that no known kind of data has: {found}. Rename them to one of\n"
        f"{known}"
    )
