"""What the tests of steps 1, 2 and DPO share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from resume_fixtures import forget_zero3
from step_fixtures import run_step


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    """Other tests' models are not partitioned either."""
    forget_zero3()
    yield
    forget_zero3()


@pytest.fixture
def train(
    settings: Callable[..., dict[str, Any]],
    dpo_settings: Callable[..., dict[str, Any]],
    dpo_models: dict[str, str],
    tiny_model_dir: Path,
    tiny_reward_dir: Path,
    tmp_path: Path,
) -> Callable[..., dict[str, float]]:
    """Runs a kind of step into a folder of the given name; flags override those here.

    An epoch has four optimiser steps of two micro-batches of two rows.
    """
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    sft = settings(model_name_or_path=str(tiny_model_dir), data_split="1,0,0", **batch)
    reward = settings(model_name_or_path=str(tiny_reward_dir), data_split="0,1,0", **batch)
    flags_of = {"sft": sft, "reward": reward, "dpo": dpo_settings(refs=[dpo_models["a"]], **batch)}

    def run(kind: str, name: str = "out", **flags: Any) -> dict[str, float]:
        return run_step(kind, {**flags_of[kind], "output_dir": str(tmp_path / name), **flags})

    return run
