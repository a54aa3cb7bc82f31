"""Tests on a real pretrained model, SmolLM2-135M-Instruct; they are skipped where it is not there.

Its folder is DSCHAT_SMOLLM2, else where `bash scripts/get_model.sh smollm2` puts it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from launch import ROOT
from real_stages import fine_tune, train_reward, write_rows

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
                shutil.rmtree(path, ignore_errors=True)  # of a failed attempt
                path.mkdir()
                make(path)
                (path / "made").touch()
        return path

    return folder


@pytest.fixture(scope="session")
def data(made_once: Make) -> Path:
    """See `write_rows`."""
    return made_once("data", write_rows)


@pytest.fixture(scope="session")
def tuned(smollm2: Path, data: Path, made_once: Make) -> Path:
    """SmolLM2 after a step of fine-tuning."""
    return made_once("sft", lambda out: fine_tune(smollm2, data, out))


@pytest.fixture(scope="session")
def reward_model(tuned: Path, data: Path, made_once: Make) -> Path:
    """A classifier on that."""
    return made_once("reward", lambda out: train_reward(tuned, data, out)) / "step_1"
