"""--profile_steps: a trace that can be read and covers the iterations asked for, no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from online_fixtures import make_trainer, online_settings


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    short = {"enable_test_mode": True, "test_stop_step": 4, "save_steps": 0}
    return lambda **changes: online_settings(
        tmp_path, tiny_model_dir, tiny_reward_dir, **short, **changes
    )


def test_the_trace_covers_the_iterations_asked_for(settings: Any, tmp_path: Path) -> None:
    trainer = make_trainer(settings(profile_steps="2:3"))
    trainer.train()
    (path,) = (tmp_path / "out" / "profile").iterdir()
    assert path.name == "iterations-2-3.json"
    events = json.loads(path.read_text())["traceEvents"]
    spans = {
        e["name"]: (e["ts"], e["ts"] + e["dur"])
        for e in events
        if e.get("name", "").startswith("iteration ")
    }
    assert set(spans) == {"iteration 2", "iteration 3"}
    begin, end = spans["iteration 2"][0], spans["iteration 3"][1]
    work = [e for e in events if e.get("cat") == "cpu_op"]
    assert len(work) > 1000
    # Between the two a line of metrics is written, which takes no tensor of the models.
    products = [e["ts"] for e in work if e["name"] in ("aten::mm", "aten::addmm")]
    assert products
    assert all(begin <= ts <= end for ts in products)
    phases = [e["name"] for e in events if e.get("cat") == "user_annotation"]
    assert all(phases.count(name) == 2 for name in ("generate", "score", "update"))


def test_without_the_flag_nothing_is_traced(settings: Any, tmp_path: Path) -> None:
    make_trainer(settings()).train()
    assert not (tmp_path / "out" / "profile").exists()


@pytest.mark.parametrize("asked", ["3", "0:2", "3:2", "a:b", "-1:2"])
def test_what_is_no_range_is_refused(settings: Any, asked: str) -> None:
    with pytest.raises(UserError, match=f"--profile_steps {asked}: expected A:B"):
        make_trainer(settings(profile_steps=asked))


def test_iterations_that_will_not_come_are_refused(settings: Any) -> None:
    with pytest.raises(UserError, match="the run has 4 iterations"):
        make_trainer(settings(profile_steps="4:5")).train()
