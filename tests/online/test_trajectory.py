"""A few iterations whose numbers are pinned: what makes a step faster must not move them.

tests/vectors/trajectory.json holds what `trajectory` returned before generation, scoring and update
were made faster (token ids sampled by transformers' `generate`, every row through the models in
full). `python tests/training/test_trajectory.py` would write it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from online_fixtures import make_trainer, online_settings

RECORDED = Path(__file__).parents[1] / "vectors" / "trajectory.json"
CASES: dict[str, dict[str, Any]] = {
    "ppo": {"ppo_epochs": 2},
    "grpo": {
        "algorithm": "grpo",
        "num_generations": 4,
        "f_div": "js",
        "gradient_accumulation_steps": 1,
    },
}


def trajectory(trainer: Any) -> dict[str, Any]:
    """Token ids and metrics of three iterations."""
    responses: list[list[list[int]]] = []
    rows: list[dict[str, float]] = []
    sample = trainer.sample

    def keep(*args: Any) -> Any:
        rollouts = sample(*args)
        responses.append([e["response_ids"] for r in rollouts for e in r.examples])
        return rollouts

    trainer.sample = keep
    size = trainer.responses // trainer.group_size
    for i in range(3):
        metrics = trainer.run_iteration(trainer.prompts[i * size : (i + 1) * size])
        rows.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
    return {"responses": responses, "metrics": rows}


def make(name: str, folder: Path, actor: Path, reward: Path) -> Any:
    """The trainer of a case; responses of up to 40 tokens, some of which end earlier."""
    sizes = {"max_answer_seq_len": 40, "actor_learning_rate": 5e-3}
    return make_trainer(online_settings(folder, actor, reward, **sizes, **CASES[name]))


@pytest.mark.parametrize("name", list(CASES))
def test_tokens_and_metrics_are_those_recorded(
    name: str, tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    expected = json.loads(RECORDED.read_text())[name]
    found = trajectory(make(name, tmp_path, tiny_model_dir, tiny_reward_dir))
    lengths = {len(r) for batch in expected["responses"] for r in batch}
    assert min(lengths) < 20 < max(lengths), "responses of different lengths are wanted"
    assert found["responses"] == expected["responses"]
    for row, wanted in zip(found["metrics"], expected["metrics"], strict=True):
        # Divergences near 0 and ratios near 1 are differences of float32 numbers of size 5.
        found_again = {name: row[name] for name in wanted}
        assert found_again == pytest.approx(wanted, rel=1e-3, abs=3e-5)


def record(folder: Path) -> None:
    """Write the file."""
    import torch
    from tiny import build_tiny_tokenizer, tiny_config
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = build_tiny_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(tokenizer)).save_pretrained(folder / "actor")
    torch.manual_seed(1)
    config = tiny_config(tokenizer, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("actor", "reward"):
        tokenizer.save_pretrained(folder / name)
    found = {
        name: trajectory(make(name, folder / name, folder / "actor", folder / "reward"))
        for name in CASES
    }
    RECORDED.write_text(json.dumps(found, indent=None) + "\n")


if __name__ == "__main__":
    import sys
    import tempfile

    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary))
