"""Prompts shared under ZeRO 3 on two ranks: agreed on, without a hang, with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from launch import environment, run_script
from online_fixtures import online_settings
from shared_on_ranks import CASES

SCRIPT = Path(__file__).parents[1] / "fixtures" / "shared_on_ranks.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"actor_lora_dim": 2, "actor_lora_module_name": "layers.", "only_optimize_lora": True}],
)
def test_two_ranks_share_prompts_under_zero_3(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, changes: dict[str, Any]
) -> None:
    # Else the tiny model's weights are small enough to stay whole under ZeRO 3.
    deepspeed = tmp_path / "deepspeed.json"
    deepspeed.write_text(
        json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}})
    )
    settings = online_settings(
        tmp_path,
        tiny_model_dir,
        tiny_reward_dir,
        algorithm="grpo",
        num_generations=4,
        per_device_generation_batch_size=4,
        per_device_training_batch_size=4,
        gradient_accumulation_steps=1,
        actor_zero_stage=3,
        deepspeed_config=str(deepspeed),
        **changes,
    )
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    env = environment()
    env["PYTHONPATH"] = ":".join([*paths, env.get("PYTHONPATH", "")])
    arguments = [tmp_path / "settings.json", tmp_path / "found.json"]
    run = run_script(SCRIPT, arguments, ranks=2, env=env)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    sharing, full = json.loads((tmp_path / "found.json").read_text())
    for case, row, other in zip(CASES, sharing, full, strict=True):
        # The policy's scoring, the reference's, and the update.
        assert row.pop("shared") == (0 if case == "rank 1 has nothing to share" else 3), case
        assert other.pop("shared") == 0
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert other[name] == pytest.approx(value, rel=2e-3, abs=2e-5), (case, name)
    assert sharing[0]["divergence"] == pytest.approx(0.0, abs=1e-12)  # equal weights, equal bits
