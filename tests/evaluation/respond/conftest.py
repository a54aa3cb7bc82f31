"""The project folder of these tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from inference_fixtures import make_project
from program_fixtures import make_programs


@pytest.fixture(scope="session")
def made_once(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_project(tmp_path_factory.mktemp("project"), tiny_tokenizer)


@pytest.fixture
def flags(made_once: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The flags of a run whose results lie in a folder of the test's own."""
    shutil.copytree(made_once["proj-path"] / "data", tmp_path / "data")
    return {**made_once, "proj-path": tmp_path, "dataset": tmp_path / "data"}


@pytest.fixture(scope="session")
def code_flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The flags of a run on 8 programming problems that the model knows; without --proj-path."""
    root = make_programs(tmp_path_factory.mktemp("programs"))
    return {
        "model": root / "sft",
        "no-actor-folder": True,
        "dataset": root / "data",
        "temperature": 1.0,
        "num_responses": 4,
        "max-new-tokens": 64,
        "sandbox": "limits",
        "reward_workers": 2,
        "batch-size": 16,
    }
