"""The moving average of the actor, against the average of the actors saved after every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint.ema import MovingAverage
from dschat.errors import UserError
from online_fixtures import make_trainer, online_settings
from safetensors.torch import load_file

LORA = {"actor_lora_dim": 4, "actor_lora_module_name": "layers."}


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    # Large steps, so that the average is far from both its ends.
    large = {"actor_learning_rate": 2e-2, "lr_scheduler_type": "constant", "enable_ema": True}
    return lambda **changes: online_settings(
        tmp_path, tiny_model_dir, tiny_reward_dir, **{**large, **changes}
    )


def saved(trainer: Any, name: str) -> dict[str, torch.Tensor]:
    folder = Path(trainer.config.output_dir) / f"step-{trainer.generation_step}" / name
    return load_file(folder / "model.safetensors")


def partitioned(tmp_path: Path) -> dict[str, Any]:
    """ZeRO 3 with even the tiny model's weights in parts."""
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    return {"actor_zero_stage": 3, "deepspeed_config": str(path)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"actor_zero_stage": 2, "dtype": "bf16"}, {"actor_zero_stage": 3}, {"parts": True}],
    ids=["0", "2-bf16", "3", "3-parts"],
)
def test_the_average_is_that_of_the_actors_of_every_step(
    settings: Any, tiny_model_dir: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes.pop("parts", False):
        changes = partitioned(tmp_path)
    trainer = make_trainer(settings(**changes))
    start = load_file(tiny_model_dir / "model.safetensors")
    bf16 = changes.get("dtype") == "bf16"
    expected = {n: (t.bfloat16() if bf16 else t).double() for n, t in start.items()}
    for i in range(4):
        trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8])
        trainer.checkpointer.save_models(trainer.generation_step)
        actor, average = saved(trainer, "actor"), saved(trainer, "actor_ema")
        assert average.keys() == actor.keys() == expected.keys()
        for name, weight in actor.items():
            expected[name] = 0.992 * expected[name] + 0.008 * weight.double()
            assert average[name].dtype == weight.dtype
            exact = {"atol": 4e-3, "rtol": 4e-3} if bf16 else {"atol": 1e-6, "rtol": 1e-5}
            torch.testing.assert_close(average[name].double(), expected[name], **exact)
    moved = sum(float((actor[n].double() - expected[n]).abs().max()) for n in actor)
    assert moved > 1.0  # the actor itself is elsewhere


def test_averages_are_kept_in_float32_where_weights_are_not(settings: Any) -> None:
    trainer = make_trainer(settings(dtype="bf16"))
    assert trainer.checkpointer.average is not None
    assert {t.dtype for t in trainer.checkpointer.average.shares.values()} == {torch.float32}


@pytest.mark.parametrize("changes", [{}, {"parts": True}], ids=["0", "3-parts"])
def test_adapters_are_averaged_and_then_merged(
    settings: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes.pop("parts", False):
        changes = partitioned(tmp_path)
    trainer = make_trainer(settings(**LORA, only_optimize_lora=True, **changes))
    model = trainer.actor.module.model

    def whole() -> dict[str, torch.Tensor]:
        from dschat.checkpoint.model_folder import gathered_state_dict

        return {n: t.double() for n, t in gathered_state_dict(model).items()}

    expected = whole()
    for i in range(2):
        trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8])
        now = whole()
        expected = {n: 0.992 * t + 0.008 * now[n] for n, t in expected.items()}
    trainer.checkpointer.save_models(trainer.generation_step)
    average = saved(trainer, "actor_ema")
    name = "model.layers.0.self_attn.q_proj"
    parts = [f"base_model.model.{name}.{p}.weight" for p in ("base_layer", "lora_A.default")]
    base, a, b = (expected[n] for n in (*parts, parts[1].replace("lora_A", "lora_B")))
    assert b.abs().max() > 0
    torch.testing.assert_close(
        average[f"{name}.weight"].double(), base + b @ a / 4, atol=1e-6, rtol=1e-5
    )
    assert all("lora" not in n for n in average)
    # Only what is trained is kept a second time.
    assert trainer.checkpointer.average is not None
    assert all("lora_" in n for n in trainer.checkpointer.average.shares)


def test_without_the_flag_there_is_no_average(settings: Any) -> None:
    trainer = make_trainer(settings(enable_ema=False))
    trainer.run_iteration(trainer.prompts[:8])
    trainer.checkpointer.save_models(trainer.generation_step)
    folder = Path(trainer.config.output_dir) / "step-1"
    assert sorted(p.name for p in folder.iterdir()) == ["actor", "critic"]


def test_an_average_resumes_from_its_saved_state() -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(5, 3)

    def step(m: torch.nn.Module, value: float) -> None:
        with torch.no_grad():
            for p in m.parameters():
                p.add_(value)

    through, first = model(), model()
    average, interrupted = MovingAverage(through), MovingAverage(first)
    for value in (1.0, -3.0):
        step(through, value)
        average.update()
        step(first, value)
        interrupted.update()
    state = {n: t.clone() for n, t in interrupted.state_dict().items()}
    resumed = MovingAverage(first)
    resumed.load_state_dict(state)
    for m, a in ((through, average), (first, resumed)):
        step(m, 2.0)
        a.update()
    expected, found = average.gathered_state_dict(), resumed.gathered_state_dict()
    assert all(torch.equal(expected[n], found[n]) for n in expected)
    with pytest.raises(UserError, match="weight.*number of ranks"):
        resumed.load_state_dict({**state, "weight": torch.zeros(7)})


def test_weights_on_disk_are_refused() -> None:
    from deepspeed.runtime.zero.partition_parameters import PartitionedParamStatus

    model = torch.nn.Linear(2, 2)
    model.weight.ds_tensor = torch.zeros(4)  # type: ignore[attr-defined]
    model.weight.ds_tensor.status = PartitionedParamStatus.NOT_AVAILABLE  # type: ignore
    with pytest.raises(UserError, match="--enable_ema.*NVMe"):
        MovingAverage(model)
