"""Step 1 in this process: its loss, mask, perplexity and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.settings.command_line import CommandLine
from dschat.settings.supervised import SupervisedConfig
from dschat.supervised.sft import IGNORED, labelled
from preferences import rows
from step_fixtures import run_step
from torch.nn import functional as F

Settings = Callable[..., dict[str, Any]]
Metrics = Callable[[str | Path], list[dict[str, Any]]]


def cross_entropy(folder: Path, tokenizer: Any, rows: list[dict[str, str]], whole: bool) -> float:
    """Mean cross-entropy per token, one text at a time, so that there is no padding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    total, tokens = 0.0, 0
    for row in rows:
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        response = tokenizer(row["chosen"], add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt + response + [tokenizer.eos_token_id]])
        first = 1 if whole else len(prompt)
        with torch.no_grad():
            logits = model(ids).logits[0, first - 1 : -1]
        total += F.cross_entropy(logits, ids[0, first:], reduction="sum").item()
        tokens += ids.shape[1] - first
    return total / tokens


@pytest.mark.parametrize("completion_only", [False, True])
def test_loss_and_perplexity_are_the_cross_entropy(
    completion_only: bool,
    tiny_model_dir: Path,
    tiny_tokenizer: Any,
    settings: Settings,
    read_metrics: Metrics,
) -> None:
    flags = settings(
        model_name_or_path=str(tiny_model_dir),
        completion_only_loss=completion_only,
        data_split="1,0,0",
        # All 16 rows are in the first optimiser step, so its loss is that of the untrained model.
        gradient_accumulation_steps=2,
        num_train_epochs=2,
    )
    run_step("sft", flags)
    start, first, last = read_metrics(flags["output_dir"])
    whole = not completion_only
    expected = cross_entropy(tiny_model_dir, tiny_tokenizer, rows(16), whole)
    assert first["loss"] == pytest.approx(expected, abs=1e-5)
    held_out = cross_entropy(tiny_model_dir, tiny_tokenizer, rows(5, first=100), whole)
    assert start["eval_perplexity"] == pytest.approx(math.exp(held_out), rel=1e-5)
    trained = cross_entropy(Path(flags["output_dir"]), tiny_tokenizer, rows(5, 100), whole)
    assert last["eval_perplexity"] == pytest.approx(math.exp(trained), rel=1e-5)
    assert (start["step"], first["step"], last["step"]) == (0, 1, 2)
    prepared = Path(flags["data_output_path"]).glob("*/*")
    assert {path.name for path in prepared} == {"train.arrow", "eval.arrow", "meta.json"}
    assert last["micro_step"] == 4


def test_labels_leave_out_the_prompt_only_when_asked() -> None:
    assert labelled([5, 6, 7], [0, 1, 1], completion_only=True)["labels"] == [IGNORED, 6, 7]
    assert labelled([5, 6, 7], [0, 1, 1], completion_only=False)["labels"] == [5, 6, 7]
    assert not labelled([5, 6], [0, 0], completion_only=False)["keep"]


def test_same_seed_same_metrics_other_seed_other_metrics(
    tiny_model_dir: Path, settings: Settings, read_metrics: Metrics, tmp_path: Path
) -> None:
    seen = []
    for number, seed in enumerate((3, 3, 4)):
        flags = settings(
            model_name_or_path=str(tiny_model_dir),
            output_dir=str(tmp_path / f"run{number}"),
            per_device_train_batch_size=2,
            seed=seed,
            dropout=0.1,
            lora_dim=2,
            lora_module_name="model.layers.",
        )
        run_step("sft", flags)
        seen.append(read_metrics(flags["output_dir"]))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_adapters_only_leaves_every_other_weight_as_it_was(
    tiny_model_dir: Path, settings: Settings
) -> None:
    from safetensors.torch import load_file

    flags = settings(
        model_name_or_path=str(tiny_model_dir),
        lora_dim=2,
        lora_module_name="q_proj",
        only_optimize_lora=True,
        lora_learning_rate=1e-1,
        zero_stage=2,
        gradient_checkpointing=True,
        dtype="bf16",
        compute_fp32_loss=True,
        enable_tensorboard=True,
        print_loss=True,
    )
    run_step("sft", flags)
    before = load_file(tiny_model_dir / "model.safetensors")
    after = load_file(Path(flags["output_dir"]) / "model.safetensors")
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    moved = {n for n in after if not torch.equal(after[n], before[n].to(torch.bfloat16))}
    assert moved == {n for n in after if "q_proj" in n}
    assert list((Path(flags["output_dir"]) / "tensorboard").glob("events*"))

    again = CommandLine(SupervisedConfig).parse([str(Path(flags["output_dir"]) / "config.yaml")])
    assert (again.dtype, again.end_of_conversation_token) == ("bf16", "<eos>")
    assert again.lora_learning_rate == 1e-1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"model_name_or_path": "./no/such/folder"}, "no such folder"),
        ({"data_path": ["./no/such/data"]}, "no/such/data"),
        ({"max_seq_len": 4}, "larger --max_seq_len"),
        ({"dtype": "fp16"}, "fp16 needs a GPU"),
        ({"offload": True}, "--offload needs a ZeRO stage"),
        ({"lora_dim": 2}, "model.layers."),
        ({"end_of_conversation_token": "<|end|>"}, "--add_eot_token"),
    ],
)
def test_what_cannot_work_is_said(
    flags: dict[str, Any], says: str, tiny_model_dir: Path, settings: Settings
) -> None:
    with pytest.raises(UserError, match=says):
        run_step("sft", settings(**{"model_name_or_path": str(tiny_model_dir), **flags}))
