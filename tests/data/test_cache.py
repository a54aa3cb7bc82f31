"""The cache: found again, made again when torn or stale, and shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.data import cache
from dschat.data.load import load_data

WRITER = """
import sys, time
from dschat.data.load import load_data
path, folder, start = sys.argv[1], sys.argv[2], float(sys.argv[3])
while time.time() < start:
    time.sleep(0.0005)
for seed in range(25):
    data = load_data([path], "rl", "1,1,8", seed, folder)
    assert len(data.train) == 152 and len(data.eval) == 10, (len(data.train), len(data.eval))
    assert len(set(data.train["prompt"])) == 152
print("done")
"""


@pytest.fixture
def path(tmp_path: Path, makers: Any, write_rows: Any) -> Path:
    return write_rows(tmp_path / "pairs.jsonl", makers["preferences"], 200)


@pytest.fixture
def load(path: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    def load(phase: Any = "reward", split: str = "1,8,1", seed: int = 7) -> list[dict]:
        data = load_data([str(path)], phase, split, seed, str(tmp_path / "cache"))
        return data.train.to_list() + data.eval.to_list()

    return load


@pytest.fixture
def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets one item per split file that is written."""
    written: list[str] = []
    write = cache._write_split

    def counting(path: Path, *arguments: Any) -> Any:
        written.append(path.name)
        return write(path, *arguments)

    monkeypatch.setattr(cache, "_write_split", counting)
    return written


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def test_the_second_read_makes_nothing(load: Any, count_writes: list, tmp_path: Path) -> None:
    first = load()
    assert load() == first
    assert count_writes == ["train.arrow", "eval.arrow"]
    (entry,) = entries(tmp_path)
    assert sorted(p.name for p in entry.iterdir()) == ["eval.arrow", "meta.json", "train.arrow"]


def test_all_that_decides_the_rows_is_in_the_key(
    load: Any, count_writes: list, tmp_path: Path
) -> None:
    variants = [{}, {"phase": "sft"}, {"split": "2,7,1"}, {"seed": 8}]
    made = [load(**variant) for variant in variants]
    assert len(entries(tmp_path)) == len(variants)
    assert [load(**variant) for variant in variants] == made
    assert len(count_writes) == 2 * len(variants)


def test_a_changed_file_of_the_same_size_and_time_is_read_anew(load: Any, path: Path) -> None:
    before = load()
    times = path.stat()
    path.write_text(path.read_text().replace("Good", "Fine"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    after = load()
    assert [row["row"] for row in after] == [row["row"] for row in before]
    assert all(row["chosen"].startswith(" Fine answer") for row in after)


def cut_rows(entry: Path) -> None:
    file = entry / "train.arrow"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_byte(entry: Path) -> None:
    content = bytearray((entry / "eval.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (entry / "eval.arrow").write_bytes(content)


def remove_rows(entry: Path) -> None:
    (entry / "train.arrow").unlink()


def cut_meta(entry: Path) -> None:
    meta = entry / "meta.json"
    meta.write_text(meta.read_text()[:-20])


def empty_meta(entry: Path) -> None:
    (entry / "meta.json").write_text("{}")


@pytest.mark.parametrize("tear", [cut_rows, flip_a_byte, remove_rows, cut_meta, empty_meta])
def test_a_torn_entry_is_made_again(
    tear: Callable[[Path], None],
    load: Any,
    count_writes: list,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = load()
    (entry,) = entries(tmp_path)
    tear(entry)
    assert load() == first
    assert "made again" in caplog.text
    assert load() == first
    assert len(count_writes) == 4
    assert entries(tmp_path) == [entry]


def test_an_older_format_is_not_read(
    load: Any, count_writes: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    load()
    assert len(count_writes) == 4


def test_an_entry_that_appears_meanwhile_stays(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes the same entry while this one is writing it."""
    first = load()
    (entry,) = entries(tmp_path)
    entry.rename(tmp_path / "theirs")
    write = cache._write_split

    def slow(path: Path, *arguments: Any) -> Any:
        written = write(path, *arguments)
        if path.name == "eval.arrow":
            (tmp_path / "theirs").rename(entry)
        return written

    monkeypatch.setattr(cache, "_write_split", slow)
    inode = (tmp_path / "theirs" / "train.arrow").stat().st_ino
    assert load() == first
    assert (entry / "train.arrow").stat().st_ino == inode
    assert entries(tmp_path) == [entry]


def test_two_processes_make_the_same_entries_at_once(path: Path, tmp_path: Path) -> None:
    start = time.time() + 4
    arguments = [sys.executable, "-c", WRITER, str(path), str(tmp_path / "cache"), str(start)]
    writers = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for writer in writers:
        out, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err
        assert out.strip() == "done"
    assert len(entries(tmp_path)) == 25
    assert all(not entry.name.startswith(".") for entry in entries(tmp_path))
