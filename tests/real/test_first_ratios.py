"""PPO's probability ratios are 1 before the first update, on a real model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from dschat.online.run import Extras, build_trainer
from dschat.online.setup import start
from dschat.settings.online import online_config
from online_fixtures import online_settings


def length(prompts: Sequence[str], responses: Sequence[str], examples: object) -> list[float]:
    """A reward that differs between responses."""
    return [float(len(response)) for response in responses]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_first_ratios_are_one(dtype: str, smollm2: Path, tmp_path: Path) -> None:
    settings = {
        **online_settings(tmp_path, smollm2, smollm2, algorithm="grpo"),
        "num_generations": 4,
        "per_device_generation_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "actor_lora_dim": 4,
        "actor_lora_module_name": "layers.",
        "only_optimize_lora": True,
        "actor_dropout": 0.0,
        "dtype": dtype,
    }
    config = online_config(**settings)
    config.validate()
    trainer = build_trainer(config, *start(config), Extras(reward=length))
    metrics = trainer.run_iteration(trainer.prompts[:1])
    assert metrics["response_tokens"] > 8
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["update_kl"] == pytest.approx(0.0, abs=1e-9)
