"""config.yaml, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dschat.errors import UserError
from dschat.runtime import run_files
from dschat.runtime.run_files import MetricsLog, write_config
from dschat.settings.command_line import CommandLine, flag
from dschat.settings.training.tracking import TrackingFlags


@dataclass
class Settings:
    """A script's settings."""

    learning_rate: float = flag(1e-5, "h")
    data_path: list[str] = flag(["a"], "h")
    pad_token: str | None = flag(None, "h")
    openai_api_key: str | None = flag(None, "h")
    sk: str | None = flag(None, "h")


def test_config_holds_settings_and_circumstances(tmp_path: Path) -> None:
    write_config(Settings(learning_rate=3e-4, pad_token="<pad>"), tmp_path / "out", device="cpu")
    written = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert written["learning_rate"] == 3e-4
    assert written["pad_token"] == "<pad>"
    assert written["run"]["device"] == "cpu"
    assert written["run"]["world_size"] == 1
    assert {"torch", "transformers", "python", "dschat"} <= set(written["run"]["versions"])


def test_config_can_be_given_back(tmp_path: Path) -> None:
    settings = Settings(learning_rate=3e-4, data_path=["x", "y"])
    write_config(settings, tmp_path)
    assert CommandLine(Settings).parse([str(tmp_path / "config.yaml")]) == settings


def test_config_never_holds_a_secret(tmp_path: Path) -> None:
    write_config(Settings(openai_api_key="hidden-1", sk="hidden-2"), tmp_path)
    assert "hidden" not in (tmp_path / "config.yaml").read_text()


def test_git_commit_is_this_repositorys() -> None:
    commit = run_files.git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


def test_one_object_a_step(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": 0.5})
        log.write({"step": 2, "loss": math.nan, "ratio": math.inf})
        # Written at once, not when the run ends.
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "ratio": None}]


def test_a_new_run_replaces_the_file_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    for append, expected in ((False, 1), (True, 2), (False, 1)):
        with MetricsLog(tmp_path, append=append) as log:
            log.write({"step": 1})
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == expected


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "is_main", lambda: False)
    write_config(Settings(), tmp_path)
    with MetricsLog.of(TrackingFlags(report_to=["tensorboard"]), tmp_path, False) as log:
        log.write({"step": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog(tmp_path)
    with pytest.raises(UserError, match="disk is full"):
        log.write({"step": 1})


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write_config(Settings(), tmp_path / "file")
