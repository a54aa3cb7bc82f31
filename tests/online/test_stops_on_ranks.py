"""Responses that a text or a token of the run's own ends, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from launch import TRAINING, run_script
from online_fixtures import command_line, make_trainer, online_settings

SCRIPT = TRAINING / "step3_rlhf_finetuning" / "main.py"
# The tiny model's tokens are near uniform: each of these ends a response now and then.
STOPS = {"stop_token": ["a", "e"], "stop_text": ["I", "O"]}


def rows_of(output: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "zero",
    [
        {"actor_zero_stage": 2},
        {"actor_zero_stage": 3, "enable_zero3_generation_gather": True},
        {"actor_zero_stage": 3},  # transformers' generate, the ranks' passes in step
    ],
    ids=["whole", "gathered", "in-step"],
)
def test_two_ranks_stop_where_one_does(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, zero: dict[str, Any]
) -> None:
    config = tmp_path / "deepspeed.json"
    threshold = {"stage3_param_persistence_threshold": 0}  # else tiny weights stay whole
    config.write_text(json.dumps({"zero_optimization": threshold}))
    given = online_settings(
        tmp_path,
        tiny_model_dir,
        tiny_reward_dir,
        **zero,
        max_answer_seq_len=24,
        enable_test_mode=True,
        test_stop_step=2,
        deepspeed_config=str(config),
    )
    found = []
    for ranks, stops in ((1, {}), (1, STOPS), (2, STOPS)):
        output = str(tmp_path / f"{ranks}-{len(stops)}")
        settings = {**given, **stops, "output_dir": output}
        if ranks == 1:
            trainer = make_trainer(settings)
            with trainer.report.log:
                trainer.train()
        else:
            settings["per_device_generation_batch_size"] = 4
            settings["per_device_training_batch_size"] = 2
            flags = {name: None if x is True else x for name, x in settings.items()}
            result = run_script(SCRIPT, command_line(**flags), ranks)
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        found.append(rows_of(output))
    without, one, two = found
    assert one[0]["ended"] > without[0]["ended"] + 0.2
    assert one[0]["response_length"] < without[0]["response_length"]
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            if name != "padding_share":  # of smaller micro-batches
                assert b[name] == pytest.approx(value, abs=2e-4, rel=2e-3), name
