"""Names and paths: every data set by its name, every form of a local copy, and the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dschat.data.schemas import DATA_SCHEMAS
from dschat.data.sources import SOURCES, Source, open_source, register
from dschat.data.tables import RawTable
from dschat.errors import UserError

EVAL_SPLITS = {
    "openai/summarize_from_feedback": "validation",
    "Dahoas/full-hh-rlhf": "test",
    "Dahoas/rm-static": "test",
    "openai/webgpt_comparisons": None,
    "codeparrot/apps": "test",
    "Anthropic/hh-rlhf": "test",
    "openai/gsm8k": "test",
    "trl-lib/ultrafeedback_binarized": "test",
}


def all_rows(table: RawTable | None) -> list[Any]:
    assert table is not None
    return list(table.read(range(len(table))))


def test_the_data_sets_are_those_documented() -> None:
    assert {s.name: s.eval_split for s in SOURCES.values()} == EVAL_SPLITS
    assert SOURCES["gsm8k"] is SOURCES["openai/gsm8k"]
    assert SOURCES["ultrafeedback"] is SOURCES["trl-lib/ultrafeedback_binarized"]


@pytest.mark.parametrize("name", ["gsm8k", "local/jsonfile"])
def test_a_name_is_registered_once(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        register(Source(name, SOURCES["gsm8k"].schema, None))


@pytest.mark.parametrize("name", [*EVAL_SPLITS, "gsm8k", "ultrafeedback"])
def test_names_are_fetched_with_their_splits(
    name: str, makers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    source = SOURCES[name]
    make = makers[source.schema]
    calls = []

    def load_dataset(path: str, config: str | None = None, **settings: Any) -> Any:
        calls.append((path, config, settings.get("data_files")))
        splits = ["train", *([source.eval_split] if source.eval_split else [])]
        return datasets.DatasetDict(
            {s: datasets.Dataset.from_list([make(i) for i in range(4)]) for s in splits}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    opened = open_source(name)
    assert opened.schema is DATA_SCHEMAS[source.schema].load()
    assert all_rows(opened.splits.train) == [make(i) for i in range(4)]
    assert (opened.splits.eval is None) == (source.eval_split is None)
    ((path, config, files),) = calls
    if source.files is None:
        assert (path, config) == (source.name, source.config)
    else:
        assert path == ("json" if source.name == "codeparrot/apps" else "parquet")
        assert set(files) == {"train", source.eval_split} - {None}
        assert all(source.name in file and f"{split}" in file for split, file in files.items())


def test_without_a_network_the_local_way_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets

    def load_dataset(*arguments: Any, **settings: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"full-hh-rlhf.*Couldn't reach.*path of the folder") as e:
        open_source("Dahoas/full-hh-rlhf")
    assert "prompt, chosen, rejected" in str(e.value)


@pytest.mark.parametrize("name", ["openai/gms8k", "no/such/folder", "train.jsonl"])
def test_unknown_names_are_answered_with_the_list(name: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(name)
    message = str(caught.value)
    for known in [*SOURCES, "local/jsonfile"]:
        assert known in message
    assert "saved by `datasets`" in message
    if name == "openai/gms8k":
        assert "Did you mean 'openai/gsm8k'?" in message


@pytest.mark.parametrize("form", ["jsonl", "json lines", "json list", "parquet", "shards", "hub"])
@pytest.mark.parametrize("name", ["summaries", "chat preferences", "preferences"])
def test_every_file_format_gives_the_same_rows(
    form: str, name: str, makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    import datasets

    rows = [makers[name](i) for i in range(6)]
    if form in ("jsonl", "json lines"):
        path = write_rows(tmp_path / f"x.{'jsonl' if form == 'jsonl' else 'json'}", makers[name], 6)
    elif form == "json list":
        path = tmp_path / "x.json"
        path.write_text(json.dumps(rows, indent=1))
    elif form == "parquet":
        path = tmp_path / "x.parquet"
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif form == "shards":
        path = tmp_path
        (path / "data").mkdir()
        for i in range(2):
            shard = datasets.Dataset.from_list(rows[3 * i : 3 * i + 3])
            shard.to_parquet(path / "data" / f"train-0000{i}-of-00002-ab12.parquet")
    else:
        path = tmp_path / "openai" / "summarize_from_feedback"
        (path / "comparisons" / "train").mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(path / "comparisons/train/0000.parquet")
        (path / "axis" / "test").mkdir(parents=True)
    opened = open_source(str(path))
    assert opened.schema.name == name
    assert all_rows(opened.splits.train) == rows


@pytest.mark.parametrize("as_dict", [True, False])
def test_folders_saved_by_datasets(as_dict: bool, makers: Any, tmp_path: Path) -> None:
    import datasets

    train = [makers["webgpt"](i) for i in range(5)]
    saved = datasets.Dataset.from_list(train)
    if as_dict:
        datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path)
    else:
        saved.save_to_disk(tmp_path)
    opened = open_source(str(tmp_path))
    assert opened.schema.name == "webgpt"
    assert all_rows(opened.splits.train) == train
    if as_dict:
        assert all_rows(opened.splits.eval) == train[:1]
    else:
        assert opened.splits.eval is None


def test_the_evaluation_split_is_the_named_one_or_the_first_known(
    makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    for folder in ("some", "openai/gsm8k"):
        for start, split in enumerate(("train", "validation", "test")):
            write_rows(tmp_path / folder / f"{split}.jsonl", makers["gsm8k"], 2, 10 * start)
    for folder, first in (("some", 10), ("openai/gsm8k", 20)):
        opened = open_source(str(tmp_path / folder))
        assert all_rows(opened.splits.train)[0] == makers["gsm8k"](0)
        assert all_rows(opened.splits.eval)[0] == makers["gsm8k"](first)


def test_one_file_of_any_name_is_the_train_split(
    makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    write_rows(tmp_path / "pairs.jsonl", makers["preferences"], 3)
    assert len(open_source(str(tmp_path)).splits.train) == 3
    write_rows(tmp_path / "more.jsonl", makers["preferences"], 3)
    with pytest.raises(UserError, match=r"more.jsonl, pairs.jsonl.*Expected train.jsonl"):
        open_source(str(tmp_path))


def test_a_folder_with_test_data_alone_or_with_nothing(
    makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="it has nothing"):
        open_source(str(tmp_path))
    write_rows(tmp_path / "test.jsonl", makers["preferences"], 3)
    with pytest.raises(UserError, match="holds no train split"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,chosen", "expected files that end in"),
        ("a.json", "[1, 2", "not a JSON list"),
        ("a.jsonl", "no json\n", "no row that can be read"),
        ("a.jsonl", "", "no row that can be read"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_unreadable_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / name))


def test_jsonfile_reads_train_and_eval_below_the_current_folder(
    makers: Any, write_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/train.json and data/eval.json"):
        open_source("local/jsonfile")
    write_rows(tmp_path / "data/train.json", makers["preferences"], 3)
    write_rows(tmp_path / "data/eval.json", makers["preferences"], 1, 50)
    opened = open_source("local/jsonfile")
    assert len(opened.splits.train) == 3
    assert all_rows(opened.splits.eval) == [makers["preferences"](50)]
