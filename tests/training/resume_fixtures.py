"""Runs that are interrupted and gone on with, held against the same run without interruption."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import run_script
from safetensors.torch import load_file

FAULTY = Path(__file__).parent / "faulty_run.py"
UNPROMISED = ("seconds",)


def metrics(output_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without times."""
    lines = (Path(output_dir) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in UNPROMISED} for row in rows]


def assert_same_run(
    one: str | Path, other: str | Path, tolerance: float = 1e-4, since: int = 0
) -> None:
    """Both folders hold the same metrics at the same steps and the same models.

    Args:
        tolerance: of metrics and of weights, absolute and relative.
        since: `one` went on at this optimiser step in a folder of its own: earlier models are not
            in it.
    """
    found, expected = metrics(one), metrics(other)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert row.keys() == wanted.keys(), row["step"]
        for name, value in wanted.items():
            close = pytest.approx(value, rel=tolerance, abs=tolerance)
            assert row[name] == close, (row["step"], name)
    models = [sorted(p.relative_to(x) for p in models_in(x)) for x in (one, other)]
    if since:
        done = max(row["micro_step"] for row in expected if row["step"] <= since)
        early = {f"step_{n}" for n in range(1, done + 1)}
        models[1] = [path for path in models[1] if path.parts[0] not in early]
    assert models[0] == models[1]
    assert models[0]
    for path in models[0]:
        a, b = load_file(Path(one) / path), load_file(Path(other) / path)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def models_in(output_dir: str | Path) -> list[Path]:
    """Weights of all models saved in a run's folder."""
    return list(Path(output_dir).rglob("*.safetensors"))


def checkpoints(output_dir: str | Path) -> list[str]:
    """Names of the resumable checkpoints, and of what looks like the rest of one."""
    return sorted(path.name for path in Path(output_dir).glob("*resumable-*"))


def run_with_fault(
    script: str | Path, fault: str, arguments: Sequence[object], ranks: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run a script as users do, with something that goes wrong; see `faulty_run.py`.

    Args:
        fault: "stop:S" (SIGTERM to the last rank when step S is logged), "kill:S" (SIGKILL to
            all ranks while the checkpoint of step S is being written), "full:S" (the last rank's
            disk is full then) or "nan:S" (the last rank's loss of micro-step S of step 1 is NaN).
    """
    return run_script(FAULTY, [fault, script, *arguments], ranks=ranks)


def forget_zero3() -> None:
    """As in a new process: while the settings of a ZeRO 3 run live, all models are partitioned."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM comes to this process when the metrics of `step` are written."""
    import signal

    from dschat.training.run_files import MetricsLog

    write = MetricsLog.write

    def stop(self: MetricsLog, row: Any) -> None:
        write(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsLog, "write", stop)


def compare_with_uninterrupted(
    script: str | Path, arguments: Sequence[object], folder: Path, step: int, ranks: int
) -> None:
    """Run with checkpoints, go on from the one of `step` in another folder, compare.

    Args:
        arguments: of the script, without --output_dir.
        folder: for both runs' outputs.
        step: how often checkpoints are saved, too; it must not be the last one.
    """
    whole, resumed = folder / "whole", folder / "resumed"
    flags = [*arguments, "--checkpoint_steps", step, "--checkpoint_keep", 9]
    done = run_script(script, [*flags, "--output_dir", whole], ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    source = whole / f"resumable-{step}"
    flags += ["--output_dir", resumed, "--resume_from_checkpoint", source]
    done = run_script(script, flags, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"going on from {source}" in done.stdout
    assert_same_run(resumed, whole, since=step)
