"""Which files below a local path hold which split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dschat.data.tables import (
    SUFFIXES,
    ArrowTable,
    RawTable,
    data_suffix,
    fingerprint_files,
    read_files,
)
from dschat.errors import UserError

EVAL_SPLITS = ("validation", "valid", "eval", "test", "dev")


@dataclass(frozen=True)
class Splits:
    """The raw rows of a data set; `eval` is None where it has no evaluation split."""

    origin: str
    train: RawTable
    eval: RawTable | None


def read_local(path: Path, eval_split: str | None = None, config: str | None = None) -> Splits:
    """Read a local file or folder.

    A file is the train split. A folder is one saved by `datasets`, or holds train.jsonl,
    train.json or train.parquet (also in shards, train-00000-of-00002.parquet, or as a folder
    `train`) and the same for the evaluation split; these may lie in the folder itself, in `data`,
    or in the folder of the configuration, as on the hub. A folder with one data file of any other
    name is read as its train split.

    Args:
        path: exists.
        eval_split: the evaluation split's name; else the first of `EVAL_SPLITS` that is there.
        config: the hub configuration that is wanted, e.g. "main".

    Raises:
        UserError: nothing that can be read as a train split; what is there is listed.
    """
    eval_splits = [*([eval_split] if eval_split else []), *EVAL_SPLITS]
    if path.is_file():
        return Splits(str(path), read_files([path]), None)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _read_saved(path, eval_splits)
    for folder in [path, path / "data", *([path / config] if config else []), path / "default"]:
        train = _split_files(folder, "train")
        if train:
            found = (_split_files(folder, name) for name in eval_splits)
            held_out = next((files for files in found if files), None)
            return Splits(str(path), read_files(train), read_files(held_out) if held_out else None)
    return Splits(str(path), read_files([_only_file(path, eval_splits)]), None)


def _split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in one format: the same rows in two formats are not read twice."""
    if not folder.is_dir():
        return []
    shard = re.compile(rf"{re.escape(split)}(-\d+-of-\d+.*)?")
    for suffix in SUFFIXES:
        files = [
            p for p in folder.glob(f"*{suffix}") if shard.fullmatch(p.name.removesuffix(suffix))
        ]
        files = files or list((folder / split).glob(f"*{suffix}"))
        if files:
            return sorted(files)
    return []


def _only_file(path: Path, eval_splits: Sequence[str]) -> Path:
    files = sorted(p for p in path.iterdir() if data_suffix(p) and p.is_file())
    others = [p for p in files if p.name.removesuffix(data_suffix(p)) not in eval_splits]
    if len(files) == 1 and others:
        return files[0]
    found = ", ".join(sorted(p.name for p in path.iterdir())[:20]) or "nothing"
    raise UserError(
        f"The folder {path} holds no train split: it has {found}. Expected train.jsonl, "
        "train.json or train.parquet (and, to evaluate on, test.* or validation.*), one data "
        "file alone, or a folder saved by `datasets`; or give the path of a file."
    )


def _read_saved(path: Path, eval_splits: Sequence[str]) -> Splits:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # `datasets` raises many kinds
        raise UserError(f"The saved data set {path} cannot be read: {error}") from error
    if isinstance(saved, datasets.Dataset):
        return Splits(str(path), _saved_table(saved, path), None)
    if "train" not in saved:
        raise UserError(
            f"The saved data set {path} has the splits {', '.join(saved)}; expected train."
        )
    name = next((name for name in eval_splits if name in saved), None)
    return Splits(
        str(path),
        _saved_table(saved["train"], path / "train"),
        _saved_table(saved[name], path / name) if name else None,
    )


def _saved_table(dataset: object, folder: Path) -> RawTable:
    # state.json names an indices file and a fingerprint that copies share; the content decides.
    files = sorted(p for p in folder.iterdir() if p.suffix == ".arrow" or p.name == "state.json")
    return ArrowTable(dataset, fingerprint_files(files), folder.name)  # type: ignore[arg-type]
