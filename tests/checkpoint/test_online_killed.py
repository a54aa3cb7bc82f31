"""Three samples of scripts/soak.sh: SIGKILL at random moments, saves included, changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["main-zero0-ranks1", "main_wpr-zero2-ranks2", "main-zero3-ranks1"]
)
def test_killed_runs_end_as_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    outcome, difference = soak(name, tmp_path, kills=2, seed=5)
    assert outcome.kills == 2
    assert difference == ""
