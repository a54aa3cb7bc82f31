"""What one rank finds, all ranks act on; a rank that dies takes the others with it, soon."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from launch import run_script
from online_fixtures import online_settings

SCRIPT = Path(__file__).parents[1] / "fixtures" / "faulty_online.py"


@pytest.fixture
def run_faulty(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    def run(what: str) -> subprocess.CompletedProcess[str]:
        changes = {
            "per_device_generation_batch_size": 4,
            "per_device_training_batch_size": 2,
            "actor_zero_stage": 2,
            "critic_zero_stage": 3,
            "enable_test_mode": True,
            "test_stop_step": 4,
        }
        settings = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes)
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        arguments = [what, tmp_path / "settings.json"]
        return run_script(SCRIPT, arguments, ranks=2, launcher=what == "die")

    return run


@pytest.mark.slow
def test_a_bad_reward_on_one_rank_leaves_out_the_step_on_both(
    run_faulty: Any, tmp_path: Path
) -> None:
    result = run_faulty("nan")
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0]
    assert "a reward of faulty is not finite on rank 1 for " in result.stdout
    kept = sorted(p.name for p in (tmp_path / "out/bad_steps").iterdir())
    assert kept == [f"iteration-2-bad-1-rank-{rank}.jsonl" for rank in (0, 1)]
    saved = [json.loads(line) for line in (tmp_path / "out/bad_steps" / kept[1]).open()]
    assert [row["reward"] for row in saved].count("nan") == 1


@pytest.mark.slow
def test_a_reward_that_raises_on_one_rank_is_told_once(run_faulty: Any) -> None:
    result = run_faulty("raise")
    assert result.returncode != 0
    told = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert len(told) == 1, result.stderr[-3000:]
    for part in ("faulty raised RuntimeError('the judge is on strike')", "What about"):
        assert part in told[0]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "reason"), [("die", "return code = -9"), ("bug", "KeyError: 'a mistake of ours'")]
)
def test_a_rank_that_dies_ends_the_run_within_a_minute(
    run_faulty: Any, tmp_path: Path, what: str, reason: str
) -> None:
    result = run_faulty(what)
    seconds = time.time() - (tmp_path / "died").stat().st_mtime
    assert result.returncode != 0
    assert seconds < 60
    assert reason in result.stdout + result.stderr
