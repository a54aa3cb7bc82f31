"""Whatever a data set or a model is called, and whatever the umask: files lie where they should."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint.model_folder import save_model_folder
from dschat.data.load import load_data
from dschat.evaluation.judging.pairs import Pair
from dschat.evaluation.judging.records import Records, record_of
from dschat.example.model import write_model
from dschat.regularization.ground.nearest_table import nearest_tokens
from dschat.runtime.files import atomic_directory, atomic_write_json, write_jsonl
from dschat.runtime.run_files import MetricsLog, write_config
from dschat.settings.inference import InferenceConfig
from dschat.settings.supervised import SupervisedConfig
from dschat.settings.training.tracking import TrackingFlags
from preferences import rows

NAMES = (
    "../x",
    "../../x",
    "/x",
    "//etc/x",
    "..",
    ".",
    "a/../../x",
    "x\ny",
    "x\x1b[2J",
    "-rf",
    "~",
    "$HOME",
    "; touch x",
    ".hidden",
    "é\u2028",
    "step-3/actor",
    "../step-3",
)


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["dataset", "model"])
def test_results_of_inference_lie_in_the_results(tmp_path: Path, name: str, flag: str) -> None:
    values: dict[str, Any] = {"dataset": "summarize", "model": "org/m", "reward_model": "r"}
    project = tmp_path / "project"
    config = InferenceConfig(**{**values, flag: name}, no_actor_folder=True, proj_path=str(project))
    for path in (config.output, config.output.with_suffix(".summary.json"), Path(config.cache)):
        place = Path(os.path.normpath(path))
        assert place.is_relative_to(project / "results")
        assert ".." not in path.relative_to(project).parts
    assert len(config.output.relative_to(project).parts) == 4


@pytest.mark.parametrize("name", ["x\ny", "-rf", "; touch x", ".hidden", "é\u2028", "data/../data"])
def test_prepared_data_lies_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "cwd" / "data").mkdir(parents=True)
    source = tmp_path / "cwd" / name
    source.mkdir(exist_ok=True)
    (source / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(9)))
    monkeypatch.chdir(tmp_path / "cwd")
    before = below(tmp_path)
    # Also as a path that leaves the current folder and comes back.
    for given in (name, f"../cwd/{name}", str(source)):
        load_data([given], "sft", "1,0,0", 1, str(tmp_path / "cache"))
    new = below(tmp_path) - before - {tmp_path / "cache"}
    assert new
    for path in new:
        first = path.relative_to(tmp_path / "cache").parts[0]
        assert set(first) <= set("0123456789abcdef")


@pytest.fixture(params=[0o022, 0o077], ids=["022", "077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def a_model(folder: Path, model: Any, tokenizer: Any) -> None:
    save_model_folder(model, tokenizer, folder / "new")
    save_model_folder(model, tokenizer, folder / "kept", keep_other_files=True)
    write_model(folder / "example", seed=1)


def a_folder(folder: Path, model: Any, tokenizer: Any) -> None:
    with atomic_directory(folder / "made") as temporary:
        (temporary / "inner").mkdir()
        for name, mode in (("private", 0o600), ("open", 0o666), ("program", 0o777)):
            (temporary / "inner" / name).touch()
            (temporary / "inner" / name).chmod(mode)


def a_run(folder: Path, model: Any, tokenizer: Any) -> None:
    write_config(SupervisedConfig(), folder / "run")
    with MetricsLog.of(TrackingFlags(enable_tensorboard=True), folder / "run", False) as log:
        log.write({"step": 1, "loss": 1.0})
    atomic_write_json(folder / "values.json", {})
    write_jsonl(folder / "rows.jsonl", [{}])


def caches(folder: Path, model: Any, tokenizer: Any) -> None:
    nearest_tokens(torch.randn(9, 3), 2, cache_dir=folder / "tables")
    write_jsonl(folder / "train.jsonl", rows(9))
    load_data([str(folder / "train.jsonl")], "sft", "1,0,0", 1, str(folder / "cache"))


def judgments(folder: Path, model: Any, tokenizer: Any) -> None:
    pair = Pair(1, "p", ("a", "b"), (None, None), None)
    with Records(str(folder / "judged" / "x.jsonl"), [pair], {}, False) as records:
        records.begin()
        records.append(record_of(pair, "A", "judged", "", []))
        records.finish({})


@pytest.mark.parametrize("make", [a_model, a_folder, a_run, caches, judgments])
def test_permissions_follow_the_umask(
    umask: int, make: Callable[..., None], tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir) if make is a_model else None
    folder = tmp_path / "out"
    folder.mkdir()
    make(folder, model, tiny_tokenizer)
    assert len(below(folder)) > 1
    for path in below(folder):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(expected), path
