"""Files: what is written is what is read, and what has changed since is noticed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from dschat.checkpoint.resumable import SEAL, read, seal
from dschat.errors import UserError
from dschat.runtime.files import atomic_write_json, atomic_write_text, read_jsonl, write_jsonl
from dschat.settings.command_line import CommandLine
from dschat.settings.supervised import SCHEDULERS, SupervisedConfig
from hypothesis import example, given
from hypothesis import strategies as st
from property_settings import checked, checked_less

# Halves of surrogate pairs too: JSON can spell them, so they are in data.
FIRST_HALVES = st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xDBFF), max_size=3)
SECOND_HALVES = st.text(st.characters(min_codepoint=0xDC00, max_codepoint=0xE010), max_size=3)
ANY_TEXT = st.text(max_size=40) | FIRST_HALVES | SECOND_HALVES
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).filter(
    lambda text: not text.startswith("-")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@checked
@given(text=st.text(max_size=60) | st.text(alphabet="\r\n\t\u2028\x85\x0b", max_size=9))
def test_text(folder: Path, text: str) -> None:
    path = folder / "text"
    atomic_write_text(path, text)
    assert path.read_bytes() == text.encode("utf-8")
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


@checked
@given(rows=st.lists(st.dictionaries(ANY_TEXT, VALUES, max_size=3), max_size=4))
@example(rows=[{"a": "\ud800"}, {"\udc00": "\u2028\x85\r\n"}])
def test_json_lines(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    assert len(path.read_bytes().splitlines()) == len(rows)
    # A kill in the last line costs that line alone.
    if rows:
        path.write_bytes(path.read_bytes()[:-2])
        assert read_jsonl(path, drop_torn_end=True) in (rows[:-1], rows)
    atomic_write_json(path, rows)
    assert json.loads(path.read_text(encoding="utf-8")) == rows


@dataclasses.dataclass
class Settings:
    """Of a run that wrote a checkpoint."""

    seed: int = 1234
    name: str = "a"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "resumable-7"
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "state.pt").write_bytes(bytes(range(256)) * 3)
    (folder / "progress.json").write_text('{"iteration": 7}')
    (folder / "empty").write_bytes(b"")
    seal(folder, 7, Settings(), prompts=12)
    return folder


@checked
@given(
    name=st.sampled_from(["actor/state.pt", "progress.json", SEAL]),
    place=st.integers(0, 10**6),
    byte=st.integers(0, 255),
    change=st.sampled_from(["replace", "insert", "remove", "cut"]),
)
def test_a_changed_checkpoint_is_noticed(
    sealed: Path, name: str, place: int, byte: int, change: str
) -> None:
    """Any byte of any file; of the seal itself, any byte that says something."""
    whole = read(sealed)
    with tempfile.TemporaryDirectory() as root:
        copy = Path(shutil.copytree(sealed, Path(root) / sealed.name))
        content = (copy / name).read_bytes()
        at = place % len(content)
        new = {
            "replace": content[:at] + bytes([byte]) + content[at + 1 :],
            "insert": content[:at] + bytes([byte]) + content[at:],
            "remove": content[:at] + content[at + 1 :],
            "cut": content[:at],
        }[change]
        (copy / name).write_bytes(new)
        try:
            found = read(copy)
        except UserError:
            return
        assert new == content or name == SEAL
        assert dataclasses.replace(found, folder=sealed) == whole


@checked_less
@given(
    rate=st.floats(1e-300, 1e300),
    epochs=st.integers(1, 10**9),
    scheduler=st.sampled_from(SCHEDULERS),
    paths=st.lists(WORDS, min_size=1, max_size=3),
    token=st.none() | WORDS,
    offload=st.booleans(),
    kind=st.sampled_from(["yaml", "json"]),
)
def test_settings_from_a_file_are_those_from_flags(
    folder: Path,
    rate: float,
    epochs: int,
    scheduler: str,
    paths: list[str],
    token: str | None,
    offload: bool,
    kind: str,
) -> None:
    given_values = {
        "model_name_or_path": "m",
        "output_dir": "o",
        "learning_rate": rate,
        "num_train_epochs": epochs,
        "lr_scheduler_type": scheduler,
        "data_path": paths,
        "offload": offload,
    }
    if token is not None:
        given_values["end_of_conversation_token"] = token
    flags: list[str] = []
    for name, value in given_values.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *map(str, values)]
    expected = SupervisedConfig(**given_values)
    assert CommandLine(SupervisedConfig).parse(flags) == expected
    path = folder / f"run.{kind}"
    written = dataclasses.asdict(expected)  # as config.yaml holds them, what is unset included
    path.write_text(yaml.safe_dump(written) if kind == "yaml" else json.dumps(written))
    assert CommandLine(SupervisedConfig).parse([str(path)]) == expected
    # A flag counts more than the file.
    assert CommandLine(SupervisedConfig).parse([str(path), "--seed", "5"]).seed == 5
