"""Tests on a real pretrained model, SmolLM2-135M-Instruct; they are skipped where it is not there.

Its folder is DSCHAT_SMOLLM2, else where `bash scripts/get_model.sh smollm2` puts it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from launch import ROOT

Make = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct: pad and end token are the same, `<|im_end|>`."""
    folder = Path(os.environ.get("DSCHAT_SMOLLM2") or ROOT / "models" / "smollm2")
    if not (folder / "config.json").is_file():
        why = os.environ.get("DSCHAT_NO_SMOLLM2") or "bash scripts/get_model.sh smollm2 fetches it"
        pytest.skip(f"no model in {folder}: {why}")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """made_once(name, make): the folder that `make(folder)` fills, once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path = base / f"real-{name}"
        with FileLock(str(path) + ".lock"):
            if not (path / "made").exists():
                path.mkdir()
                make(path)
                (path / "made").touch()
        return path

    return folder
