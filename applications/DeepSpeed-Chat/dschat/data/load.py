"""From names or paths of data sets to the rows of one training phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dschat.data.cache import CacheEntry, arrow_schema, entry_folder, read_or_write
from dschat.data.report import DataReport, Problem, SourceReport, SplitReport
from dschat.data.rows import PHASES, Phase, Row, RowError, encode_example
from dschat.data.schemas import schemas
from dschat.data.schemas.base import code_of
from dschat.data.schemas.dialogues import as_messages
from dschat.data.sources import OpenSource, open_source
from dschat.data.splits import parse_data_split, split_indices
from dschat.data.tables import RawTable
from dschat.data.text import verbatim
from dschat.errors import UserError

if TYPE_CHECKING:
    import datasets

# Where a data set has no evaluation split: which part is trained on, and which is held out.
HELD_OUT_SPLIT = (95.0, 5.0)
ALL_TO_SFT = "1,0,0"


@dataclass(frozen=True)
class LoadedData:
    """The rows of a phase; see `load_data` for the columns."""

    train: datasets.Dataset
    eval: datasets.Dataset
    report: DataReport


def load_data(
    data_path: Sequence[str],
    phase: Phase,
    data_split: str,
    seed: int,
    data_output_path: str,
    sft_only_data_path: Sequence[str] = (),
    apply_chat_template: bool = False,
) -> LoadedData:
    """Read, cut, normalise and cache the data sets of one phase, one after the other.

    The train split of each data set is cut by `data_split` on its raw rows, as DeepSpeed-Chat
    does; rows that cannot be used are dropped after the cut, counted and logged. Evaluation rows
    are the whole evaluation split. Where a data set has none, 5 % of the train split is held out
    first (by the same rule, with the same seed) and `data_split` cuts the rest, so that no row is
    in both. The rows stand in the order of the cut, data set by data set.

    Columns: `prompt` (str, or messages where any of the data sets is a chat; plain prompts are
    then one message of the role "verbatim"), `chosen`, `rejected` (str or None), `example` (JSON,
    see `decode_example`; filled in RL), `source` (as given) and `row` (raw row number, from 0).

    Args:
        data_path: names or local paths.
        phase: "sft", "reward" or "rl".
        data_split: relative sizes of the three phases' parts.
        seed: of the cut.
        data_output_path: folder of the cache.
        sft_only_data_path: data sets that go wholly to SFT.
        apply_chat_template: plain prompts become messages (see `as_messages`), and responses lose
            the white space around them, which a template has of its own.

    Raises:
        UserError: an unknown name, unreadable data, a data set without any usable row or of no
            use for the phase, or an unusable `data_split`.
    """
    if len(parse_data_split(data_split)) != len(PHASES):
        raise UserError(
            f"--data_split {data_split!r} has another number of parts than there are phases; "
            "expected three numbers, for SFT, reward and RL, for example 2,4,4."
        )
    if sft_only_data_path and phase != "sft":
        raise UserError(
            "--sft_only_data_path is for step 1 (SFT) alone; remove it here or give --data_path."
        )
    wanted = [(name, data_split) for name in data_path]
    wanted += [(name, ALL_TO_SFT) for name in sft_only_data_path]
    if not wanted:
        raise UserError("No data set is given; expected --data_path with a name or a local path.")
    cache = Path(data_output_path)
    entries = [
        _load_source(name, phase, split, seed, cache, apply_chat_template) for name, split in wanted
    ]
    report = DataReport(tuple(SourceReport.from_dict(entry.report) for entry in entries))
    report.log()
    return LoadedData(
        _blend([entry.train for entry in entries]),
        _blend([entry.eval for entry in entries]),
        report,
    )


def _load_source(
    name: str, phase: Phase, data_split: str, seed: int, cache: Path, apply_chat_template: bool
) -> CacheEntry:
    source = open_source(name)
    into_chat = apply_chat_template and not source.schema.chat
    if phase not in source.schema.phases:
        usable = ", ".join(s.name for s in schemas() if phase in s.phases)
        raise UserError(
            f"The data set {name!r} ({source.schema.name}) has no pairs of a chosen and a rejected "
            f"response, which a reward model is trained on. Kinds of data that do: {usable}."
        )
    held_out = source.splits.eval
    key = {
        "name": name,
        "schema": source.schema.name,
        "train": source.splits.train.fingerprint,
        "eval": held_out.fingerprint if held_out is not None else None,
        "phase": phase,
        "split": parse_data_split(data_split),
        "seed": seed,
        **({"apply_chat_template": True} if into_chat else {}),
        **code_of(source.schema),
    }
    return read_or_write(
        entry_folder(cache, key),
        arrow_schema(source.schema.chat or into_chat),
        lambda: _make(source, phase, data_split, seed, into_chat),
    )


def _make(
    source: OpenSource, phase: Phase, data_split: str, seed: int, into_chat: bool
) -> tuple[dict[str, Iterator[dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """The rows of both splits, lazily, and the report on them; see `read_or_write`."""
    train, held_out = source.splits.train, source.splits.eval
    if held_out is None:
        kept, eval_rows = split_indices(len(train), HELD_OUT_SPLIT, seed)
        held_out = train
    else:
        kept, eval_rows = np.arange(len(train)), np.arange(len(held_out))
    part = split_indices(len(kept), data_split, seed)[PHASES.index(phase)]
    splits = {
        "train": _Normaliser(source, train, phase, kept[part], into_chat),
        "eval": _Normaliser(source, held_out, phase, eval_rows, into_chat),
    }

    def report() -> dict[str, Any]:
        reports = {split: rows.report() for split, rows in splits.items()}
        _require_rows(source.name, reports["train"], f"--data_split {data_split} ({phase})")
        # Of a part that was drawn by lot nobody chose the rows: bad ones there are a warning.
        if len(eval_rows) and source.splits.eval is not None:
            _require_rows(source.name, reports["eval"], "the evaluation split")
        return SourceReport(source.name, source.schema.name, **reports).to_dict()

    return {split: iter(rows) for split, rows in splits.items()}, report


def _require_rows(name: str, report: SplitReport, part: str) -> None:
    if report.rows:
        return
    if report.selected == 0:
        raise UserError(
            f"The data set {name!r} gives no rows to {part}: it has {report.raw} rows. Give this "
            "phase a larger share of --data_split, or more data."
        )
    problems = "\n".join(f"  {line}" for line in report.problem_lines())
    raise UserError(
        f"The data set {name!r} has no usable row among the {report.selected} of {part}:\n"
        f"{problems}\nCorrect the data, or give another data set."
    )


class _Normaliser:
    """Iterates over the usable rows of a part of a table, and counts the others."""

    def __init__(
        self,
        source: OpenSource,
        table: RawTable,
        phase: Phase,
        indices: np.ndarray,
        into_chat: bool,
    ) -> None:
        self._name = source.name
        self._schema = source.schema
        self._into_chat = into_chat
        self._table = table
        self._phase = phase
        self._indices = indices.tolist()
        self._rows = 0
        self._problems: dict[str, list[int]] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, raw in zip(self._indices, self._table.read(self._indices), strict=True):
            try:
                if isinstance(raw, RowError):
                    raise raw
                rows = self._schema.rows(raw, self._phase)
            except RowError as problem:
                self._problems.setdefault(str(problem), []).append(index)
                continue
            for row in rows:
                self._rows += 1
                yield self._columns(_as_chat(row) if self._into_chat else row, index)

    def _columns(self, row: Row, index: int) -> dict[str, Any]:
        return {
            "prompt": row.prompt,
            "chosen": row.chosen,
            "rejected": row.rejected,
            "example": encode_example(row.example),
            "source": self._name,
            "row": index,
        }

    def report(self) -> SplitReport:
        """What has been read so far. The first one is that with the lowest row number."""
        problems = tuple(
            Problem(kind, len(where), self._table.place(min(where)))
            for kind, where in self._problems.items()
        )
        return SplitReport(len(self._table), len(self._indices), self._rows, problems)


def _as_chat(row: Row) -> Row:
    return dataclasses.replace(
        row,
        prompt=as_messages(row.prompt),
        chosen=row.chosen and row.chosen.strip(),
        rejected=row.rejected and row.rejected.strip(),
    )


def _blend(parts: Sequence[datasets.Dataset]) -> datasets.Dataset:
    """One data set after the other; plain prompts become messages where another has messages."""
    import datasets
    import pyarrow as pa

    is_chat = [not pa.types.is_string(part.data.schema.field("prompt").type) for part in parts]
    if any(is_chat) and not all(is_chat):
        parts = [
            part if chat else _with_verbatim_prompts(part)
            for part, chat in zip(parts, is_chat, strict=True)
        ]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(list(parts))


def _with_verbatim_prompts(dataset: datasets.Dataset) -> datasets.Dataset:
    import datasets
    import pyarrow as pa

    rows = dataset.to_list()
    for row in rows:
        row["prompt"] = verbatim(row["prompt"])
    return datasets.Dataset(pa.Table.from_pylist(rows, arrow_schema(chat=True)))
