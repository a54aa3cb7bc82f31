"""A small online trainer in this process, for the tests of step 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dschat.training.online import build_trainer
from dschat.training.online_setup import start
from dschat.training.online_trainer import OnlineTrainer
from dschat.training.penalty_config import DivergenceConfig, WassersteinConfig

SUBJECTS = ["kettle", "dog", "fox", "egg", "capital", "water", "tea", "France"]


def write_prompts(folder: Path, rows: int = 64) -> Path:
    """train.jsonl and test.jsonl in the generic schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", rows), ("test", 8)):
        lines = []
        for i in range(count):
            subject = SUBJECTS[i % len(SUBJECTS)]
            lines.append(
                json.dumps(
                    {
                        "prompt": f"{name} {i}: What about the {subject}{'?' * (i % 3)} Answer:",
                        "chosen": f" The {subject} is fine.",
                        "rejected": " No.",
                    }
                )
            )
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def online_settings(tmp_path: Path, actor: Path, reward: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of a few seconds."""
    return {
        "data_path": [str(write_prompts(tmp_path / "prompts"))],
        "data_split": "0,0,1",
        "actor_model_name_or_path": str(actor),
        "critic_model_name_or_path": str(reward),
        "output_dir": str(tmp_path / "out"),
        "data_output_path": str(tmp_path / "cache"),
        "max_prompt_seq_len": 64,
        "max_answer_seq_len": 8,
        "per_device_generation_batch_size": 8,
        "per_device_training_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "warmup_ratio": 0.0,
        "seed": 7,
        **changes,
    }


def make_trainer(settings: dict[str, Any], wasserstein: bool = False) -> OnlineTrainer:
    """The trainer that main.py or main_wpr.py would run."""
    config: Any = (WassersteinConfig if wasserstein else DivergenceConfig)(**settings)
    config.validate()
    return build_trainer(config, *start(config))
