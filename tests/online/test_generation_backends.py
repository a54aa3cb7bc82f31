"""`--generation_backend` in a run of step 3: the same run from both backends, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dschat.checkpoint.resume import check_same_run
from dschat.errors import UserError
from dschat.runtime.run_files import plain_settings
from online_fixtures import grpo_config, make_trainer
from test_trajectory import CASES, RECORDED, trajectory


def test_a_run_is_the_one_recorded_with_generate(settings: Any, tmp_path: Path) -> None:
    sizes = {"max_answer_seq_len": 40, "actor_learning_rate": 5e-3}
    trainer = make_trainer(settings(generation_backend="transformers", **sizes, **CASES["grpo"]))
    assert trainer.backend.name == "transformers"
    found = trajectory(trainer)
    expected = json.loads(RECORDED.read_text())["grpo"]
    assert found["responses"] == expected["responses"]
    written = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert written["generation_backend"] == "transformers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation_backend": "sglang"}, "one of native, transformers, vllm"),
        ({"vllm_gpu_memory_utilization": 0.5}, "belongs to --generation_backend vllm"),
        (
            {"generation_backend": "vllm", "vllm_gpu_memory_utilization": 1.5},
            "utilization 1.5: expected a number above 0",
        ),
        ({"generation_backend": "static"}, "static was removed.* Use transformers"),
        ({"generation_backend": "continuous"}, "continuous was removed.* Use native"),
        (
            {
                "generation_backend": "vllm",
                "actor_zero_stage": 3,
                "enable_zero3_generation_gather": True,
            },
            "sent one gathered weight at a time. Remove the flag",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(settings(**changes))


def test_going_on_with_another_backend_is_refused(settings: Any) -> None:
    from types import SimpleNamespace

    from dschat.settings.online import online_config

    old = online_config(**settings(generation_backend="transformers"))
    now = online_config(**settings())
    checkpoint: Any = SimpleNamespace(
        settings=plain_settings(old), run={"world_size": 1}, folder="resumable-2"
    )
    with pytest.raises(UserError, match="--generation_backend transformers -> native"):
        check_same_run(checkpoint, now)


@pytest.mark.parametrize(("backend", "gathered"), [("native", True), ("vllm", False)])
def test_the_script_with_several_references_passes_it_on(backend: str, gathered: bool) -> None:
    flags = {"ref_a": "a", "ref_b": "b", "output_dir": "out", "zero_stage": 3}
    config = grpo_config(**flags, generation_backend=backend)
    assert config.generation_backend == backend
    assert config.enable_zero3_generation_gather == gathered
