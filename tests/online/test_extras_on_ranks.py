"""Moving average, pre-training mix and LoRA's reference: two ranks do what one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from documented import unexplained
from launch import TRAINING, run_script
from online_fixtures import SUBJECTS, make_trainer, online_settings
from safetensors.torch import load_file

SCRIPT = TRAINING / "step3_rlhf_finetuning" / "main.py"
LORA = {
    "actor_lora_dim": 4,
    "actor_lora_module_name": "layers.",
    "only_optimize_lora": True,
    "actor_lora_learning_rate": 1e-3,
    "critic_lora_dim": 4,  # and so the reward model is the critic with its adapters off
    "critic_lora_module_name": "layers.",
    "critic_lora_learning_rate": 1e-3,
}


def run(settings: dict[str, Any], ranks: int) -> tuple[list[dict[str, float]], Path]:
    """Metrics without times, and the last checkpoint; one rank runs in this process."""
    if ranks == 1:
        trainer = make_trainer(settings)
        with trainer.report.log:
            trainer.train()
    else:
        arguments = []
        for name, value in settings.items():
            values = value if isinstance(value, list) else [value]
            arguments += [f"--{name}", *([] if value is True else map(str, values))]
        result = run_script(SCRIPT, arguments, ranks)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    output = Path(settings["output_dir"])
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert not unexplained(rows)
    kept = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]
    return kept, output / "step-2"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"actor_zero_stage": 2, "critic_zero_stage": 2},
        {
            **LORA,
            "actor_zero_stage": 3,
            "critic_zero_stage": 3,
            "actor_gradient_checkpointing": True,
            "enable_zero3_generation_gather": True,
        },
    ],
    ids=["whole-2", "lora-3"],
)
def test_two_ranks_do_what_one_does(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, changes: dict[str, Any]
) -> None:
    corpus, deepspeed = tmp_path / "corpus.jsonl", tmp_path / "deepspeed.json"
    lines = [{"text": f"{i} cups of {SUBJECTS[i % 8]}, and more to come."} for i in range(200)]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # Else the tiny model's weights are small enough to stay whole under ZeRO 3.
    threshold = {"stage3_param_persistence_threshold": 0}
    deepspeed.write_text(json.dumps({"zero_optimization": threshold}))
    flags = {
        **changes,
        "enable_ema": True,
        "entropy_coef": 0.05,
        "unsupervised_dataset_name": str(corpus),
        "unsup_coef": 2.0,
        "deepspeed_config": str(deepspeed),
        "enable_test_mode": True,
        "test_stop_step": 2,
    }
    given = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **flags)
    halves = {"per_device_generation_batch_size": 4, "per_device_training_batch_size": 2}
    one, alone = run({**given, "output_dir": str(tmp_path / "one")}, 1)
    two, together = run({**given, **halves, "output_dir": str(tmp_path / "two")}, 2)
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["unsupervised_loss"] > 0
        assert a["entropy_loss"] < 0 < a["entropy"]
        for name, value in a.items():
            if name == "padding_share":  # of smaller micro-batches
                continue
            assert b[name] == pytest.approx(value, abs=2e-4, rel=2e-3), name
    for model in ("actor", "actor_ema", "critic"):
        weights, others = (
            load_file(folder / model / "model.safetensors") for folder in (alone, together)
        )
        assert weights.keys() == others.keys()
        for name, tensor in weights.items():
            # Adam turns tiny gradients into steps of the learning rate (1e-3) times a sign.
            difference = (tensor - others[name]).abs()
            assert difference.mean() < 2e-5, (model, name)
            assert difference.max() < 2.1e-3, (model, name)
    start = load_file(tiny_model_dir / "model.safetensors")
    actor, average = (load_file(together / m / "model.safetensors") for m in ("actor", "actor_ema"))
    name = "model.layers.1.mlp.down_proj.weight"
    moved = (average[name] - start[name]).norm() / (actor[name] - start[name]).norm()
    assert 0 < float(moved) < 0.03  # two steps of 0.8 %
