"""Step 2 in this process: its loss, accuracy, scores and outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from preferences import rows
from step_fixtures import run_step
from torch.nn import functional as F

Settings = Callable[..., dict[str, Any]]
Metrics = Callable[[str | Path], list[dict[str, Any]]]


def scores(
    folder: Path, tokenizer: Any, pairs: list[dict[str, str]], pads: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chosen and rejected scores, one text at a time: the head at the end token's hidden state."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def score(prompt: str, response: str) -> float:
        ids = [tokenizer.pad_token_id] * pads
        ids += tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids += tokenizer(response, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.model(torch.tensor([[*ids, tokenizer.eos_token_id]])).last_hidden_state
            return model.score(hidden[0, -1]).item()

    chosen = torch.tensor([score(row["prompt"], row["chosen"]) for row in pairs])
    return chosen, torch.tensor([score(row["prompt"], row["rejected"]) for row in pairs])


@pytest.mark.parametrize("pads", [0, 1])
def test_loss_accuracy_and_scores(
    pads: int,
    tiny_reward_dir: Path,
    tiny_tokenizer: Any,
    settings: Settings,
    read_metrics: Metrics,
) -> None:
    flags = settings(
        model_name_or_path=str(tiny_reward_dir),
        data_split="0,1,0",
        gradient_accumulation_steps=2,
        num_train_epochs=3,
        num_padding_at_beginning=pads,
        compute_fp32_loss=True,
    )
    run_step("reward", flags)
    start, first, *_, last = read_metrics(flags["output_dir"])
    chosen, rejected = scores(tiny_reward_dir, tiny_tokenizer, rows(16), pads)
    expected = -F.logsigmoid(chosen - rejected).mean().item()
    assert first["loss"] == pytest.approx(expected, abs=1e-5)

    final = Path(flags["output_dir"]) / "step_6"
    for folder, row in ((tiny_reward_dir, start), (final, last)):
        chosen, rejected = scores(folder, tiny_tokenizer, rows(5, first=100), pads)
        assert row["eval_loss"] == pytest.approx(
            -F.logsigmoid(chosen - rejected).mean().item(), abs=1e-5
        )
        assert row["eval_accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
        assert row["eval_chosen_score"] == pytest.approx(chosen.mean().item(), abs=1e-5)
        assert row["eval_rejected_score"] == pytest.approx(rejected.mean().item(), abs=1e-5)
        assert row["eval_pairs"] == 5
    assert last["micro_step"] == 6


def test_it_learns_from_a_language_model(
    tiny_model_dir: Path, settings: Settings, read_metrics: Metrics
) -> None:
    """Step 1's output has no score head: one is made, trained and saved."""
    flags = settings(
        model_name_or_path=str(tiny_model_dir), num_train_epochs=4, zero_stage=1, data_split="0,1,0"
    )
    final = run_step("reward", flags)
    assert final["eval_accuracy"] == 1.0
    assert final["eval_chosen_score"] > final["eval_rejected_score"]
    folders = [p.name for p in Path(flags["output_dir"]).iterdir() if p.is_dir()]
    assert folders == ["step_8"]


def test_intervals_count_micro_steps(
    tiny_reward_dir: Path, settings: Settings, read_metrics: Metrics
) -> None:
    flags = settings(
        model_name_or_path=str(tiny_reward_dir),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=2,
        data_split="0,1,0",
        eval_interval=3,
        eval_iters=1,
    )
    run_step("reward", flags)
    found = read_metrics(flags["output_dir"])
    folders = {p.name for p in Path(flags["output_dir"]).iterdir() if p.is_dir()}
    assert folders == {"step_3", "step_6", "step_8"}
    # After micro-step 3, in the middle of optimiser step 2, and so on; the last takes all pairs.
    assert {r["step"]: r["eval_pairs"] for r in found if "eval_pairs" in r} == {
        0: 2,
        2: 2,
        3: 2,
        4: 5,
    }


def test_a_head_trains_beside_adapters(tiny_reward_dir: Path, settings: Settings) -> None:
    from safetensors.torch import load_file

    flags = settings(
        model_name_or_path=str(tiny_reward_dir),
        lora_dim=2,
        lora_module_name="v_proj",
        only_optimize_lora=True,
        gradient_checkpointing=True,
    )
    run_step("reward", flags)
    (folder,) = (p for p in Path(flags["output_dir"]).iterdir() if p.is_dir())
    before = load_file(tiny_reward_dir / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert before.keys() == after.keys()
    assert moved == {name for name in after if "v_proj" in name or name == "score.weight"}


def test_texts_cut_to_the_same_tokens_are_refused(
    tiny_reward_dir: Path, settings: Settings
) -> None:
    flags = settings(model_name_or_path=str(tiny_reward_dir), max_seq_len=5)
    with pytest.raises(UserError, match="larger --max_seq_len"):
        run_step("reward", flags)
