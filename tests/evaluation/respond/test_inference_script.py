"""The script, as users start it: with python, and on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dpo_fixtures import command_line
from dschat.evaluation.respond.run import infer
from inference_fixtures import N, configured, read
from launch import ROOT, run_script

SCRIPT = ROOT / "inference" / "inference_with_rewards.py"


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(flags: dict[str, Any], tmp_path: Path) -> None:
    reference = flags["model"].parent.parent / "sft"
    asked = {**flags, "temperature": 0.9, "reference-model": reference, "batch-size": 2}
    alone = infer(configured({**asked, "proj-path": tmp_path / "one"}))
    done = run_script(SCRIPT, command_line(asked), ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    name = Path("results/data/temperature=0.9/ppo_step-3.jsonl")
    one, two = read(tmp_path / "one" / name), read(flags["proj-path"] / name)
    assert len(two) == N
    assert [(r["prompt"], r["response"]) for r in two] == [
        (r["prompt"], r["response"]) for r in one
    ]
    assert [r["reward"] for r in two] == pytest.approx([r["reward"] for r in one], abs=1e-4)
    assert f"{alone['figures']['ppo_step-3']['KL']:.3f}" in done.stdout
    assert "distinct-2" in done.stdout
