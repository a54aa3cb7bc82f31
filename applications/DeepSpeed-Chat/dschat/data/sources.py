"""The data sets known by name, and how a name or a path becomes raw rows and their schema."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dschat.data.local import Splits, read_local
from dschat.data.schemas import DATA_SCHEMAS, Schema, detect_schema
from dschat.data.tables import ArrowTable, first_problem, read_files, sample_rows
from dschat.errors import UserError

JSONFILE = "local/jsonfile"


@dataclass(frozen=True)
class Source:
    """A data set of the Hugging Face hub.

    Attributes:
        name: as on the hub.
        schema: how its rows are read, by name.
        eval_split: None where it has a train split only; a part of it is then held out.
        config: the hub configuration.
        files: where its files are, with {split} in it, for data sets that `datasets` can no
            longer load by their name because a Python script reads them.
        aliases: short names.
    """

    name: str
    schema: str
    eval_split: str | None
    config: str | None = None
    files: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenSource:
    """A source's raw rows, ready to be read."""

    name: str
    schema: Schema
    splits: Splits


SOURCES: dict[str, Source] = {}


def register(source: Source) -> Source:
    """Make a source known by its name and aliases.

    Raises:
        ValueError: one of them is taken.
    """
    for name in (source.name, *source.aliases):
        if name in SOURCES or name == JSONFILE:
            raise ValueError(f"a data source named {name!r} is registered already")
        SOURCES[name] = source
    return source


# The hub's own conversion to parquet, which every data set has.
_PARQUET = "hf://datasets/{name}@refs/convert/parquet"

register(
    Source(
        "openai/summarize_from_feedback",
        "summaries",
        eval_split="validation",
        config="comparisons",
        files=_PARQUET.format(name="openai/summarize_from_feedback")
        + "/comparisons/{split}/*.parquet",
    )
)
register(Source("Dahoas/full-hh-rlhf", "preferences", eval_split="test"))
register(Source("Anthropic/hh-rlhf", "dialogues", eval_split="test"))
register(Source("Dahoas/rm-static", "preferences", eval_split="test"))
register(
    Source(
        "openai/webgpt_comparisons",
        "webgpt",
        eval_split=None,
        files=_PARQUET.format(name="openai/webgpt_comparisons") + "/default/{split}/*.parquet",
    )
)
register(
    Source(
        "codeparrot/apps",
        "apps",
        eval_split="test",
        config="all",
        files="hf://datasets/codeparrot/apps/{split}.jsonl",
    )
)
register(Source("openai/gsm8k", "gsm8k", eval_split="test", config="main", aliases=("gsm8k",)))
register(
    Source(
        "trl-lib/ultrafeedback_binarized",
        "chat preferences",
        eval_split="test",
        aliases=("ultrafeedback",),
    )
)


def open_source(name_or_path: str) -> OpenSource:
    """Find and read a data set by name or path; an existing path is never looked up on the hub.

    A local path whose end is a known name (/data/openai/gsm8k) is read as that data set if its
    columns are that data set's; otherwise its columns decide (see `detect_schema`).

    Raises:
        UserError: neither a path nor a known name; or the data cannot be read or fetched.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        source = _source_at_end_of(path)
        splits = read_local(
            path, source.eval_split if source else None, source.config if source else None
        )
        return OpenSource(name_or_path, _schema_of(splits, source), splits)
    if name_or_path == JSONFILE:
        splits = _read_jsonfile(Path("data"))
        return OpenSource(name_or_path, _schema_of(splits, None), splits)
    if name_or_path in SOURCES:
        source = SOURCES[name_or_path]
        return OpenSource(name_or_path, DATA_SCHEMAS[source.schema].load(), _fetch(source))
    raise UserError(_unknown(name_or_path))


def _unknown(name_or_path: str) -> str:
    names = [*SOURCES, JSONFILE]
    close = difflib.get_close_matches(name_or_path, names, n=1)
    return (
        f"The data set {name_or_path!r} is neither a file or folder on this machine nor a known "
        f"name.{f' Did you mean {close[0]!r}?' if close else ''} Known names: {', '.join(names)}. "
        "A local file (.jsonl, .json, .parquet) or folder (train.jsonl and test.jsonl, or one "
        "saved by `datasets`) with the columns of one of them works as well."
    )


def _source_at_end_of(path: Path) -> Source | None:
    parts = path.resolve().parts
    return SOURCES.get("/".join(parts[-2:])) or SOURCES.get(parts[-1])


def _schema_of(splits: Splits, source: Source | None) -> Schema:
    sample = sample_rows(splits.train)
    if not sample:
        problem = first_problem(splits.train)
        raise UserError(
            f"{splits.origin} has no row that can be read: {problem or 'it is empty'}. Expected "
            "one JSON object a line, as UTF-8 text."
        )
    if source is not None:
        schema: Schema = DATA_SCHEMAS[source.schema].load()
        if schema.matches(sample):
            return schema
    return detect_schema(sample, splits.origin)


def _read_jsonfile(folder: Path) -> Splits:
    """DeepSpeed-Chat's own convention: data/train.json and data/eval.json."""
    files = [folder / name for name in ("train.json", "eval.json")]
    if not all(path.is_file() for path in files):
        raise UserError(
            f"The data set {JSONFILE!r} stands for the files {files[0]} and {files[1]} below the "
            f"current folder, {Path.cwd()}, which are not both there. Put them there, or give the "
            "path of a file or folder in its place."
        )
    return Splits(str(folder), read_files(files[:1]), read_files(files[1:]))


def _fetch(source: Source) -> Splits:
    """Download a data set, or take `datasets`' copy of an earlier download."""
    import datasets

    splits = ["train", *([source.eval_split] if source.eval_split else [])]
    try:
        if source.files is None:
            loaded: Any = datasets.load_dataset(source.name, source.config)
        else:
            builder = "parquet" if source.files.endswith(".parquet") else "json"
            files = {split: source.files.format(split=split) for split in splits}
            loaded = datasets.load_dataset(builder, data_files=files)
    except Exception as error:  # no network, no such revision, a full disk: many kinds
        raise UserError(
            f"The data set {source.name} could not be fetched from the Hugging Face hub: {error}. "
            "Without a network, copy it to this machine and give the path of the folder or file "
            f"in its place; its columns are: {DATA_SCHEMAS[source.schema].load().columns}."
        ) from error
    tables = [
        ArrowTable(loaded[split], loaded[split]._fingerprint, f"{source.name} {split}")
        for split in splits
    ]
    return Splits(source.name, tables[0], tables[1] if len(tables) > 1 else None)
