"""Plain text, cut into blocks of equal length, for a language-modelling loss beside RL.

Texts are tokenised one by one, with the special tokens that the tokenizer adds by itself, and
strung together; a block is a run of tokens of that, whatever texts it crosses (as DeepSpeed-Chat).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dschat.data.local import read_local
from dschat.data.rows import RawRow, RowError
from dschat.data.tables import ArrowTable, RawTable
from dschat.errors import UserError

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000
"""Rows that stay in their order, so that a document cut into rows stays one."""


class LineTable:
    """The lines of a text file as rows with a `text` column."""

    fingerprint = ""

    def __init__(self, path: Path) -> None:
        try:
            self._lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The text file {path} cannot be read: {error}") from error
        self._name = path.name

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, indices: Any) -> Iterator[RawRow | RowError]:
        """The lines with these numbers."""
        return ({"text": self._lines[i]} for i in indices)

    def place(self, index: int) -> str:
        """Where to find a line."""
        return f"{self._name}, line {index + 1}"


def open_text(name: str, config: str | None = None) -> RawTable:
    """The training rows of a local file or folder, or of a data set of the Hugging Face hub.

    Args:
        name: .txt (a row is a line), .jsonl, .json or .parquet; a folder as in `read_local`; or a
            name on the hub. An existing path is never looked up there.
        config: the hub data set's configuration, or a local folder's subfolder.

    Raises:
        UserError: neither can be read.
    """
    path = Path(name).expanduser()
    if path.exists() and config is not None:
        if not (path / config).is_dir():
            raise UserError(
                f"--unsupervised_dataset_config_name {config}: {path} is on this machine and has "
                "no folder of that name. Remove the flag."
            )
        path = path / config
    if path.is_file() and path.suffix.lower() == ".txt":
        return LineTable(path)
    if path.exists():
        return read_local(path).train
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, split="train")
    except Exception as error:  # no network, no such data set, a configuration to choose: many
        raise UserError(
            f"--unsupervised_dataset_name {name}: no such file or folder on this machine, and it "
            f"could not be fetched from the Hugging Face hub: {error}"
        ) from error
    return ArrowTable(loaded, loaded._fingerprint, f"{name} train")


def text_blocks(
    table: RawTable, origin: str, tokenizer: Any, length: int, count: int, seed: int
) -> np.ndarray:
    """`count` blocks in random order, or all there are.

    Runs of 1,000 rows are drawn in random order until there are enough, so that the cost depends on
    the training run and not on the size of the data; what is left of a run of rows is dropped.

    Args:
        origin: the data's name, for messages. length: tokens in a block.

    Returns:
        [blocks, length] int32, a function of the arguments alone: the same on all ranks.

    Raises:
        UserError: there is no text, or not enough for one block.
    """
    generator = np.random.default_rng([seed, 0])
    starts = generator.permutation(range(0, len(table), ROWS_AT_ONCE))
    column = _text_column(table, origin)
    found: list[np.ndarray] = []
    total = unusable = tokens = 0
    for start in starts:
        rows = list(table.read(range(start, min(start + ROWS_AT_ONCE, len(table)))))
        texts = [_text(row, column) for row in rows]
        unusable += sum(text is None for text in texts)
        usable = [text for text in texts if text]
        # Texts may be longer than the context: they are cut into blocks.
        ids = tokenizer(usable, verbose=False)["input_ids"] if usable else []
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32)
        tokens += len(flat)
        blocks = flat[: len(flat) // length * length].reshape(-1, length)
        found.append(blocks)
        total += len(blocks)
        if total >= count:
            break
    if unusable:
        logger.warning("%d rows of %s have no text in %r and are skipped", unusable, origin, column)
    if total == 0:
        raise UserError(
            f"--unsupervised_dataset_name {origin} has {tokens} tokens in its column {column!r}; a "
            f"block takes {length} (--max_prompt_seq_len + --max_answer_seq_len). Give more text."
        )
    whole = np.concatenate(found)
    return whole[generator.permutation(len(whole))[:count]]


def _text_column(table: RawTable, origin: str) -> str:
    """`text`, or else the first column, as in DeepSpeed-Chat."""
    row = next((r for r in table.read(range(min(100, len(table)))) if isinstance(r, dict)), None)
    if not row:
        raise UserError(f"--unsupervised_dataset_name {origin} has no row that can be read.")
    column = "text" if "text" in row else next(iter(row))
    if not isinstance(row[column], str):
        raise UserError(
            f"--unsupervised_dataset_name {origin} has the columns {', '.join(row)}; expected a "
            "column `text` with plain text."
        )
    if column != "text":
        logger.warning("%s has no column text; its column %r is used", origin, column)
    return column


def _text(row: RawRow | RowError, column: str) -> str | None:
    value = row.get(column) if isinstance(row, dict) else None
    return value if isinstance(value, str) else None
