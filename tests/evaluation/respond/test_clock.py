"""Inference that is gone on with another day tells the chat template the first day."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dschat.data import clock
from dschat.evaluation.respond.partial import freeze_clock

THEN = "2024-02-28T23:59:30"


@pytest.mark.parametrize("finished", [False, True])
def test_the_time_of_the_results_that_are_there(finished: bool, tmp_path: Path) -> None:
    output = tmp_path / "ppo.jsonl"
    clock.freeze("2020-01-01T00:00:00")
    freeze_clock(output, overwrite=False)
    assert clock.frozen() > THEN, "nothing is there: now"
    if finished:
        path, value = tmp_path / "ppo.summary.json", {"settings": {"clock": THEN}}
    else:
        path, value = tmp_path / ".ppo.partial" / "settings.json", {"clock": THEN}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    freeze_clock(output, overwrite=False)
    assert clock.frozen() == THEN
    freeze_clock(output, overwrite=True)
    assert clock.frozen() > THEN
    path.write_text("{")  # said elsewhere
    freeze_clock(output, overwrite=False)
    clock.freeze(None)
