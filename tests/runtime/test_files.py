"""Files and folders are complete under their name, or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.runtime import files
from dschat.runtime.files import (
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    read_jsonl,
    write_jsonl,
)


def test_text_is_replaced_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    atomic_write_text(path, "first")
    atomic_write_text(path, "zweitens – ü")
    assert path.read_text(encoding="utf-8") == "zweitens – ü"
    assert os.listdir(path.parent) == ["a.txt"]
    atomic_write_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}


def test_a_failed_write_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"disk is full.*a.txt.*--output_dir"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_directory_appears_complete_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for generation in ("one", "two"):
        with atomic_directory(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(f".checkpoint.tmp-{os.getpid()}")
            (temporary / "sub").mkdir()
            (temporary / "sub" / generation).write_text("x")
            assert (path / "sub" / "two").exists() is False
        assert os.listdir(path / "sub") == [generation]
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_failing_block_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with atomic_directory(path) as temporary:
        (temporary / "old").touch()

    def broken() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "new").touch()
            raise KeyError("broken")

    with pytest.raises(KeyError):
        broken()
    assert os.listdir(tmp_path) == ["checkpoint"]
    assert os.listdir(path) == ["old"]


def test_the_old_folder_is_put_back_when_renaming_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    with atomic_directory(path) as temporary:
        (temporary / "old").touch()
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(target) == path and not str(source).endswith("-replaced"):
            raise OSError(errno.EIO, "I/O error")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", failing)
    with pytest.raises(OSError, match="I/O error"), atomic_directory(path):
        assert path.exists()
    assert os.listdir(tmp_path) == ["checkpoint"]
    assert os.listdir(path) == ["old"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # What safetensors raises, which is not an OSError.
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_explained_and_nothing_is_left(tmp_path: Path, error: Exception) -> None:
    def save() -> None:
        with atomic_directory(tmp_path / "checkpoint") as temporary:
            (temporary / "half").write_text("written")
            raise error

    with pytest.raises(UserError, match=r"disk is full.*checkpoint"):
        save()
    assert os.listdir(tmp_path) == []


def test_a_file_or_a_folder_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file is a file"), atomic_directory(tmp_path / "file"):
        raise AssertionError("the block must not run")
    with pytest.raises(UserError, match="Give another path"):
        atomic_write_text(tmp_path / "file" / "below.txt", "x")
    assert (tmp_path / "file").read_text() == "mine"


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "checkpoint"):
        open(tmp_path / "absent")  # noqa: SIM115


def test_json_lines_round_trip(tmp_path: Path) -> None:
    rows = [{"a": 1, "text": "zwei\nZeilen \u2028 ü"}, {"b": None}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '"text"'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(UserError, match=r"rows.jsonl, line 3"):
        read_jsonl(path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.jsonl"):
        read_jsonl(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_jsonl(tmp_path / "binary.jsonl")


def test_byte_order_marks_of_windows_are_passed_over(tmp_path: Path) -> None:
    """At the start of a file, and of each line where such files were joined."""
    path = tmp_path / "rows.jsonl"
    mark = "\ufeff".encode()
    path.write_bytes(mark + b'{"a": 1}\r\n' + mark + b'{"a": "\xef\xbb\xbf2"}\n\r\n' + mark)
    assert read_jsonl(path) == [{"a": 1}, {"a": "\ufeff2"}]
