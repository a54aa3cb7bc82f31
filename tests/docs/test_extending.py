"""The files and commands of docs/extending.md, as they stand there, on the tiny model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from launch import ROOT, run_script

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S))
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
COMMANDS = [shlex.split(block.replace("\\\n", " ")) for block in BLOCKS]


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, the scripts, and a model in the place of the example's."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "applications").symlink_to(ROOT / "applications")
    (tmp_path / "example").mkdir()
    (tmp_path / "example/model").symlink_to(tiny_model_dir)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(output_dir: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """The page's command with this output folder; what it writes to metrics.jsonl."""
    (command,) = [c for c in COMMANDS if output_dir in c]
    assert command[0] == "python"
    done = run_script(command[1], command[2:])
    metrics = Path(output_dir, "metrics.jsonl")
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return done, [json.loads(line) for line in lines]


def test_a_reward(folder: Path) -> None:
    done, rows = run("runs/my_reward")
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows
    for row in rows:
        parts = (
            row["reward/brevity"]
            + 2 * row["reward/contains_answer"] * row["reward/contains_answer_applies"]
        )
        assert row["reward"] == pytest.approx(parts, abs=1e-5)
        assert 0 < row["reward/brevity"] < 1


def test_data(folder: Path) -> None:
    done, rows = run("runs/my_data")
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows
    seen = done.stdout + done.stderr
    (expected,) = re.findall(r"^```text\n(my_questions.*)\n```", PAGE, re.M)
    assert expected in seen
    assert Path("runs/my_data/config.json").is_file()


def test_an_advantage(folder: Path) -> None:
    done, rows = run("runs/my_advantage")
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows
    assert not any("critic_lr" in row for row in rows)
    # Responses one by one: within groups there would be nothing to learn from.
    assert all(row["actor_grad_norm"] > 0 for row in rows)
    config = Path("runs/my_advantage/config.yaml").read_text()
    assert "advantage: batch" in config
    assert "least_std: 0.05" in config


def test_a_penalty(folder: Path) -> None:
    done, rows = run("runs/my_penalty")
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows[0]["divergence"] == pytest.approx(0, abs=1e-6)
    assert all({"token_penalty", "penalty/capped"} <= row.keys() for row in rows)


def test_an_unknown_name_is_answered_with_the_list(folder: Path) -> None:
    done, _ = run("runs/no")
    assert done.returncode == 1
    (expected,) = re.findall(r"^```text\n(error: .*?)\n```", PAGE, re.M | re.S)
    assert expected.replace("\n", " ") in done.stderr


def test_every_file_and_command_of_the_page_is_run_here() -> None:
    assert len(FILES) == 6
    tested = {"runs/my_reward", "runs/my_data", "runs/my_advantage", "runs/my_penalty", "runs/no"}
    example = ["python", "-m", "dschat.example", "--output_dir", "example", "--seed", "0"]
    assert [c for c in COMMANDS if not tested & set(c)] == [example]
