"""Trackers: TensorBoard for real, wandb and trackio as stand-in modules that keep their calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.runtime.run_files import MetricsLog
from dschat.runtime.trackers import IDENTITY
from dschat.settings.training.tracking import TrackingFlags
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STAND_IN = """
calls, broken = [], set()

def call(what, *args, **kwargs):
    if what in broken:
        raise ConnectionError(f"{what} is broken, token=x\\nmore")
    calls.append((what, args, kwargs))

class Run:
    def log(self, values, step=None):
        call("log", values, step)
    def finish(self):
        call("finish")

def init(**kwargs):
    call("init", **kwargs)
    return Run()
"""


@pytest.fixture
def package(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """An importable module of the parameter's name."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / f"{request.param}.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    yield __import__(request.param)
    sys.modules.pop(request.param)


BOTH = pytest.mark.parametrize("package", ["wandb", "trackio"], indirect=True)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_gets_the_numbers_only(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with MetricsLog.of(TrackingFlags(enable_tensorboard=True), tmp_path, False) as log:
        log.write({"step": 7, "loss": 0.25, "name": "x"})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert scalars(tmp_path / "tensorboard", "loss") == [(7, 0.25)]
    assert torch.get_num_threads() == threads


def test_a_resumed_run_replaces_what_tensorboard_had_after_the_checkpoint(tmp_path: Path) -> None:
    settings = TrackingFlags(report_to=["tensorboard"], tensorboard_path=str(tmp_path / "board"))
    with MetricsLog.of(settings, tmp_path, False) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": float(step)})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()[:1]  # as at a checkpoint
    (tmp_path / "metrics.jsonl").write_text(lines[0] + "\n")
    with MetricsLog.of(settings, tmp_path, True) as log:
        log.write({"step": 2, "loss": 20.0})
    assert scalars(tmp_path / "board", "loss") == [(1, 1.0), (2, 20.0)]


@BOTH
def test_a_tracker_is_told_the_settings_and_the_numbers(package: Any, tmp_path: Path) -> None:
    name = package.__name__
    settings = TrackingFlags(report_to=[name], project="words", run_name="first")
    with MetricsLog.of(settings, tmp_path / "out", False) as log:
        log.write({"step": 3, "reward": 1.5, "note": "x"})
    assert [what for what, _, _ in package.calls] == ["init", "log", "finish"]
    given, row = package.calls[0][2], package.calls[1][1]
    assert given["project"] == "words"
    assert given["name"].startswith("first")
    assert given["config"]["run_name"] == "first"
    assert row == ({"reward": 1.5}, 3)


@BOTH
def test_a_resumed_run_is_the_same_run_of_the_tracker(package: Any, tmp_path: Path) -> None:
    settings = TrackingFlags(report_to=[package.__name__])
    for resuming in (False, True, False):
        with MetricsLog.of(settings, tmp_path / "out", resuming) as log:
            log.write({"step": 1})
    runs = [kwargs for what, _, kwargs in package.calls if what == "init"]
    key = "id" if package.__name__ == "wandb" else "name"
    first, resumed, new = (run[key] for run in runs)
    assert first == resumed != new
    assert all(run["resume"] == "allow" for run in runs)
    assert json.loads((tmp_path / "out" / IDENTITY).read_text())["id"] in new


@BOTH
@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_alone_with_one_warning(
    package: Any, call: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package.broken.add(call)
    with MetricsLog.of(TrackingFlags(report_to=[package.__name__]), tmp_path, False) as log:
        for step in (1, 2, 3):
            log.write({"step": step})
    said = capsys.readouterr()
    assert (said.out + said.err).count("WARNING") == 1
    assert f"{package.__name__} failed ({call} is broken" in said.out + said.err
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"report_to": ["none", "wandb"]}, "none stands alone"),
        ({"report_to": ["none"], "enable_tensorboard": True}, "contradict"),
        ({"tensorboard_path": "x"}, "--enable_tensorboard"),
        ({"run_name": "x", "enable_tensorboard": True}, "add --report_to wandb"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrackingFlags(**flags).validate_tracking()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install trackio"):
        TrackingFlags(report_to=["trackio"]).validate_tracking()


def test_the_published_flag_is_the_same_as_report_to() -> None:
    both = TrackingFlags(enable_tensorboard=True, report_to=["tensorboard"])
    assert both.trackers == TrackingFlags(enable_tensorboard=True).trackers == ["tensorboard"]
    assert TrackingFlags().trackers == TrackingFlags(report_to=["none"]).trackers == []
