"""What the tests of online runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from online_fixtures import online_settings


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    """Settings of a run of a few seconds, with changes."""
    return lambda **changes: online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes)
