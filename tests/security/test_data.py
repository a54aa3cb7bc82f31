"""Reading data, prepared data, tables and settings never runs code that they hold."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from dschat.data.load import load_data
from dschat.data.sources import open_source
from dschat.errors import UserError
from dschat.regularization.ground.nearest_table import nearest_tokens
from dschat.settings.command_line import CommandLine
from dschat.settings.supervised import SupervisedConfig
from hostile_files import Touch
from preferences import rows
from pyarrow import parquet

N = 12


def code(mark: Path) -> str:
    """A loading script, as `datasets` up to version 3 could run it."""
    return (
        f"import datasets, pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "class Data(datasets.GeneratorBasedBuilder):\n    pass\n"
    )


def hostile_table(mark: Path, columns: list[str] | None = None) -> pa.Table:
    """Rows with a column whose Arrow type is a pickle; old versions of pyarrow unpickled it."""
    table = pa.Table.from_pylist(rows(N))
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Touch(mark)),
    }
    field = pa.field("odd", pa.int64(), metadata=metadata)
    return table.append_column(field, pa.array(range(N), pa.int64()))


def script_and_rows(folder: Path, mark: Path) -> None:
    for name in (f"{folder.name}.py", "dataset.py", "__init__.py"):
        (folder / name).write_text(code(mark))
    lines = [json.dumps(row) + "\n" for row in rows(N)]
    (folder / "train.jsonl").write_text("".join(lines))


def pickles_and_rows(folder: Path, mark: Path) -> None:
    script_and_rows(folder, mark)
    for name in ("train.pkl", "train.pt", "cache.pkl", "data.pickle", "train.jsonl.pkl"):
        (folder / name).write_bytes(pickle.dumps(Touch(mark)))


def a_type_in_parquet(folder: Path, mark: Path) -> None:
    parquet.write_table(hostile_table(mark), folder / "train.parquet")


def a_type_in_a_saved_folder(folder: Path, mark: Path) -> None:
    datasets.Dataset.from_list(rows(N)).save_to_disk(folder)
    (file,) = folder.glob("*.arrow")
    table = hostile_table(mark)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["odd"] = {"_type": "Value", "dtype": "int64"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


DATA = (script_and_rows, pickles_and_rows, a_type_in_parquet, a_type_in_a_saved_folder)


@pytest.mark.parametrize("make", DATA, ids=lambda make: make.__name__)
def test_a_hostile_data_set(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    folder, mark = tmp_path / "data", tmp_path / "mark"
    folder.mkdir()
    make(folder, mark)
    data = load_data([str(folder)], "sft", "1,0,0", 1, str(tmp_path / "cache"))
    assert len(data.train) > 0
    assert not mark.exists()


@pytest.mark.parametrize("name", ["data.py", "data.pkl", "train.pt"])
def test_code_alone_is_no_data_set(tmp_path: Path, name: str) -> None:
    folder, mark = tmp_path / "data", tmp_path / "mark"
    folder.mkdir()
    text = code(mark).encode() if name.endswith(".py") else pickle.dumps(Touch(mark))
    (folder / name).write_bytes(text)
    for path in (folder, folder / name):
        with pytest.raises(UserError):
            open_source(str(path))
    assert not mark.exists()


def a_pickle(mark: Path) -> bytes:
    return pickle.dumps(Touch(mark))


def a_stream_with_a_type(mark: Path) -> bytes:
    sink, table = pa.BufferOutputStream(), hostile_table(mark)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("make", [a_pickle, a_stream_with_a_type])
def test_hostile_prepared_data(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    """In the place of an entry of the cache, with the hashes that belong to it."""
    mark, source = tmp_path / "mark", tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(N)))

    def load() -> list[dict[str, Any]]:
        return load_data([str(source)], "sft", "1,0,0", 1, str(tmp_path / "cache")).train.to_list()

    before = load()
    (entry,) = (tmp_path / "cache").iterdir()
    assert {path.suffix for path in entry.iterdir()} == {".arrow", ".json"}
    content = make(mark)
    (entry / "train.arrow").write_bytes(content)
    meta = json.loads((entry / "meta.json").read_text())
    meta["files"]["train"] = {"rows": N, "sha256": hashlib.sha256(content).hexdigest()}
    (entry / "meta.json").write_text(json.dumps(meta))
    (entry / "train.pkl").write_bytes(a_pickle(mark))
    found = load()
    assert not mark.exists()
    assert found == before if make is a_pickle else found  # a torn entry is made again


@pytest.mark.parametrize("as_array", [False, True])
def test_a_hostile_table_of_nearest_tokens(tmp_path: Path, as_array: bool) -> None:
    mark = tmp_path / "mark"
    embeddings = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    expected = nearest_tokens(embeddings, 3, cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*/*.npz")
    if as_array:
        objects = np.array([Touch(mark)] * 2, dtype=object)
        arrays = {"tokens": objects, "indices": objects, "costs": objects}
        np.savez(file, allow_pickle=True, key=np.array(file.parent.name), **arrays)
    else:
        file.write_bytes(pickle.dumps(Touch(mark)))
    found = nearest_tokens(embeddings, 3, cache_dir=tmp_path / "cache")
    assert torch.equal(found.indices, expected.indices)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_hostile_config_file(tmp_path: Path, suffix: str) -> None:
    mark, file = tmp_path / "mark", tmp_path / f"config{suffix}"
    file.write_text(
        f"output_dir: !!python/object/apply:os.mkdir ['{mark}']\n"
        f"model_name_or_path: !!python/object/new:os.mkdir ['{mark}']\n"
    )
    with pytest.raises(UserError, match="cannot be read"):
        CommandLine(SupervisedConfig).parse([str(file)])
    assert not mark.exists()
