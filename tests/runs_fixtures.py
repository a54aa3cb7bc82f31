"""Folders of runs, made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    penalty: str | None = "rkl",
    **settings: Any,
) -> str:
    """metrics.jsonl and config.yaml; a penalty of None leaves the latter out."""
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    if penalty is not None:
        values = {"seed": 1, "kl_ctl": 0.1, "output_dir": str(folder), **settings}
        values["run"] = {"penalty": penalty, "world_size": 1, "git_commit": str(folder)}
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return str(folder)


def online_rows(
    steps: int,
    reward: Callable[[int], float | None],
    divergence: float = 0.5,
    log_ratio: float | None = 0.1,
) -> list[dict[str, Any]]:
    """As PPO writes them: responses of 10 tokens."""
    return [
        {
            "step": step,
            "iteration": step,
            "reward": reward(step),
            "divergence_per_response": divergence,
            "log_ratio": log_ratio,
            "response_length": 10.0,
            "policy_loss": -0.01 * step,
        }
        for step in range(1, steps + 1)
    ]
