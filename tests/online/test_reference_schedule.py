"""--reference_schedule: the reference follows the policy as its closed form says, resumably."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from documented import unexplained
from dschat.checkpoint.model_folder import gathered_state_dict
from dschat.errors import UserError
from dschat.models.lora import merged_state_dict
from dschat.online import penalty
from dschat.online.penalty import build_regularizer
from dschat.settings.online import online_config
from launch import TRAINING, run_script
from online_fixtures import command_line, make_trainer, online_settings

SCRIPT = TRAINING / "step3_rlhf_finetuning" / "main.py"
EMA = {"reference_schedule": "ema", "reference_decay": 0.75}
RESET = {"reference_schedule": "reset", "reference_interval": 2}
INTERPOLATE = {
    "reference_schedule": "interpolate",
    "reference_interval": 2,
    "reference_mix": 0.25,
}
LORA = {
    "actor_lora_dim": 4,
    "actor_lora_module_name": "layers.",
    "only_optimize_lora": True,
    "actor_lora_learning_rate": 0.02,
}
# Factors of the start and of the policies after iterations 1 to 4.
CLOSED_FORMS = {
    "ema": [0.75**4, 0.25 * 0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25],
    "reset": [0, 0, 0, 0, 1],
    "interpolate": [0.75**2, 0, 0.25 * 0.75, 0, 0.25],
}


@pytest.fixture
def partitioned(tmp_path: Path) -> dict[str, Any]:
    """ZeRO 3 with small weights partitioned too: the tiny model's are small."""
    path = tmp_path / "deepspeed.json"
    threshold = {"stage3_param_persistence_threshold": 0}
    path.write_text(json.dumps({"zero_optimization": threshold}))
    return {"actor_zero_stage": 3, "deepspeed_config": str(path)}


def iterate(trainer: Any, count: int) -> list[dict[str, float]]:
    rows = []
    for _ in range(count):
        i = 8 * trainer.iteration
        metrics = trainer.run_iteration(trainer.prompts[i : i + 8])
        rows.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
    return rows


def policy_of(trainer: Any) -> dict[str, torch.Tensor]:
    """Whole weights with adapters added, copied; tied ones once."""
    model = trainer.actor.module.model
    state = {n: w.clone() for n, w in gathered_state_dict(model).items()}
    return merged_state_dict(model, state) if hasattr(model, "peft_config") else state


def reference_of(trainer: Any) -> dict[str, torch.Tensor]:
    (reference,) = trainer.scorer.penalty.references
    return {n: p.detach().clone() for n, p in reference.policy.model.named_parameters()}


@pytest.mark.parametrize(
    "schedule", [EMA, RESET, INTERPOLATE], ids=lambda s: s["reference_schedule"]
)
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_reference_is_its_closed_form_in_the_policies(
    settings: Any,
    partitioned: dict[str, Any],
    schedule: dict[str, Any],
    lora: bool,
    stage: int,
) -> None:
    sharding = partitioned if stage == 3 else {"actor_zero_stage": stage}
    trainer = make_trainer(settings(**schedule, **sharding, **(LORA if lora else {})))
    start = reference_of(trainer)
    policies, rows = [start], []
    for _ in range(4):
        rows += iterate(trainer, 1)
        policies.append(policy_of(trainer))
    every = schedule.get("reference_interval", 1)
    assert [r["reference_moves"] for r in rows] == [i // every for i in range(1, 5)]
    assert not unexplained(rows)
    factors = CLOSED_FORMS[schedule["reference_schedule"]]
    found, moved = reference_of(trainer), 0.0
    for name, weight in found.items():
        pairs = zip(factors, policies, strict=True)
        expected = sum(f * p[name].double() for f, p in pairs)
        torch.testing.assert_close(weight.double(), expected, atol=1e-7, rtol=1e-5)
        moved = max(moved, float((weight - start[name]).abs().max()))
    assert moved > 1e-4
    # The first two iterations see the start; what a reset leads to, the third sees.
    assert rows[0]["divergence"] == 0 < rows[1]["divergence"]
    if schedule is RESET:
        assert abs(rows[2]["divergence"]) <= (1e-6 if lora else 0.0)
        assert rows[3]["divergence"] > 1e-6


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_reset_clears_adam_and_nothing_else_does(settings: Any, stage: int) -> None:
    whole_move = {**INTERPOLATE, "reference_mix": 1.0}
    for schedule, steps in ((RESET, 0), (whole_move, 2)):
        trainer = make_trainer(settings(**schedule, actor_zero_stage=stage))
        iterate(trainer, 2)
        optimizer = trainer.actor.optimizer
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        states = list(optimizer.state.values())
        assert states
        for state in states:
            assert int(state["step"]) == steps
            assert bool(state["exp_avg"].any()) == bool(state["exp_avg_sq"].any()) == (steps > 0)
        # The reference itself is the same either way.
        policy = policy_of(trainer)
        assert all(torch.equal(w, policy[n]) for n, w in reference_of(trainer).items())


def test_a_bf16_reference_averages_in_float32(settings: Any) -> None:
    slow = {"reference_schedule": "ema", "reference_decay": 0.9999}
    trainer = make_trainer(settings(**slow, frozen_dtype="bf16"))
    start = trainer.schedule.state_dict()
    iterate(trainer, 2)
    end = trainer.schedule.state_dict()
    changed = [n for n in start if not torch.equal(start[n], end[n])]
    assert all(w.dtype == torch.float32 for w in end.values())
    assert len(changed) > len(start) / 2  # bf16 would have rounded these steps away
    for name, weight in reference_of(trainer).items():
        assert torch.equal(weight.flatten(), end[name].bfloat16())


def test_the_table_of_the_metric_does_not_move(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A penalty, a plugin's too, may keep the table that it is given."""
    given = []

    def build(config: Any, embeddings: torch.Tensor, tokenizer: Any) -> Any:
        given.append(embeddings)
        return build_regularizer(config, embeddings, tokenizer)

    monkeypatch.setattr(penalty, "build_regularizer", build)
    trainer = make_trainer(settings(**RESET, regularizer="energy_distance"))
    start = given[0].clone()
    iterate(trainer, 2)
    assert torch.equal(given[0], start)
    (reference,) = trainer.scorer.penalty.references
    assert not torch.equal(reference.policy.model.get_input_embeddings().weight, start)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "schedule", [EMA, {**RESET, "reference_interval": 3}], ids=["ema", "reset"]
)
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path,
    tiny_model_dir: Path,
    tiny_reward_dir: Path,
    partitioned: dict[str, Any],
    schedule: dict[str, Any],
    ranks: int,
) -> None:
    sharding = partitioned if ranks == 2 else {}
    given = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **schedule, **sharding)
    given |= {"enable_test_mode": None, "test_stop_step": 4}
    given |= {"checkpoint_steps": 1, "checkpoint_keep": 9}
    for name in ("whole", "resumed"):
        if name == "resumed":
            given["resume_from_checkpoint"] = str(tmp_path / "whole/resumable-2")
        arguments = command_line(**{**given, "output_dir": str(tmp_path / name)})
        done = run_script(SCRIPT, arguments, ranks)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = []
    for name in ("whole", "resumed"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append(
            [
                {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
                for line in lines
            ]
        )
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    for rank in range(ranks):
        saved = [
            torch.load(tmp_path / path / f"rank-{rank}.pt")["reference"]
            for path in ("whole/resumable-2", "whole/resumable-3", "resumed/resumable-3")
        ]
        assert all(torch.equal(saved[1][n], saved[2][n]) for n in saved[1])
        assert any(not torch.equal(saved[0][n], saved[1][n]) for n in saved[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"reference_decay": 0.9},
            "belongs to --reference_schedule ema, and the schedule is fixed",
        ),
        ({**RESET, "reference_mix": 0.5}, "belongs to --reference_schedule interpolate"),
        ({"reference_schedule": "ema"}, "ema needs --reference_decay"),
        ({"reference_schedule": "reset"}, "reset needs --reference_interval"),
        ({**INTERPOLATE, "reference_mix": None}, "interpolate needs --reference_mix"),
        ({**EMA, "reference_decay": 1.0}, "expected a number above 0 and below 1"),
        ({**RESET, "reference_interval": 0}, "expected 1 or more"),
        ({**INTERPOLATE, "reference_mix": 1.5}, "at most 1"),
        ({**EMA, "refs": ["a", "b"]}, "2 references: which of them would move"),
        ({**EMA, "regularizer": "none"}, "has no reference"),
        ({**EMA, "reference_residency": "one"}, "where it does not move"),
        ({**EMA, "reference_quantization": "8bit"}, "cannot be averaged"),
        (
            {
                **EMA,
                "regularizer": "kl",
                "kl_type": "fkl",
                "algorithm": "grpo",
                "reference_samples": 1,
                "critic_learning_rate": ...,
            },
            "per_state",
        ),
    ],
)
def test_what_does_not_fit_is_refused(settings: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        online_config(**settings(**changes)).validate()


def test_a_reference_of_another_architecture_is_refused(
    settings: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Weights of the same names and shapes, read another way."""
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    config = json.loads((other / "config.json").read_text())
    config["rms_norm_eps"] = 0.01
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"\(rms_norm_eps\).*own architecture"):
        make_trainer(settings(**EMA, refs=[str(other)]))
