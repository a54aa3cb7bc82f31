"""The project folder of these tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from inference_fixtures import make_project


@pytest.fixture(scope="session")
def made_once(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_project(tmp_path_factory.mktemp("project"), tiny_tokenizer)


@pytest.fixture
def flags(made_once: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The flags of a run whose results lie in a folder of the test's own."""
    shutil.copytree(made_once["proj-path"] / "data", tmp_path / "data")
    return {**made_once, "proj-path": tmp_path, "dataset": tmp_path / "data"}
