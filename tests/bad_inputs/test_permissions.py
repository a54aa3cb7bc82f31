"""Folders and files that may not be written or read: root, too, without its special rights."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_input_files import make_files
from bad_input_runs import command, error_line, exit_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="permissions as Linux has them")
CASES = [
    ("sft", "--output_dir locked/out", "locked.* not be written"),
    ("ppo", "--output_dir locked", "locked.* not be written"),
    ("dpo", "--output_dir locked/out", "locked.* not be written"),
    ("inference", "--proj-path locked", "locked.* not be written"),
    ("judge", "--output locked/judged.jsonl", "locked.* not be written"),
    ("sample", "--savepath locked/sampled.jsonl", "locked.* not be written"),
    ("compare", "a.jsonl b.jsonl --output locked/page", "locked.* not be written"),
    ("plot", "run --output locked/plots", "locked.* not be written"),
    ("sft", "--data_path private.jsonl", "private.jsonl cannot be read"),
    ("sample", "--filepath private.jsonl", "private.jsonl cannot be read"),
    ("ppo", "--actor_model_name_or_path private_model", "private_model"),
]


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable"))


@contextlib.contextmanager
def without_special_rights() -> Iterator[None]:
    """Permissions count for this thread even as root (capabilities 1 and 2, DAC_*, are put by)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(0x20080522, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~0b110
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0


@pytest.fixture(scope="module")
def given(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("given")
    make_files(folder, tiny_tokenizer)
    (folder / "locked").mkdir(mode=0o500)
    (folder / "private.jsonl").write_text("{}")
    (folder / "model_b").rename(folder / "private_model")
    private = [folder / "private.jsonl", *(folder / "private_model").glob("*.safetensors")]
    for path in private:
        path.chmod(0)
    yield folder
    (folder / "locked").chmod(0o700)


@pytest.mark.parametrize(("script", "typed", "says"), CASES)
def test_what_is_not_permitted_is_told(
    script: str,
    typed: str,
    says: str,
    given: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(given)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with without_special_rights():
        code = exit_code(command(script, typed, tmp_path / "out"))
    told = error_line(capfd.readouterr().err)
    assert re.search(says, told), told
    assert code == 1
    assert not list((given / "locked").iterdir())
