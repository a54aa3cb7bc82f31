"""Stages of a run on SmolLM2 of one iteration each, in this process, and plain transformers."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dpo_fixtures import configured
from dschat.example import sentence_check
from dschat.example.sentences import make_row
from dschat.online.loop import OnlineTrainer
from dschat.online.run import build_trainer
from dschat.online.setup import start
from dschat.settings.supervised import RewardModelingConfig, SupervisedConfig
from dschat.supervised.dpo import train_dpo
from dschat.supervised.reward_modeling import train_reward_model
from dschat.supervised.sft import train_sft
from online_fixtures import grpo_config
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

WORDS = ("river", "clock", "bread", "winter", "guitar", "bridge", "candle", "doctor")
LORA = {"lora_dim": 4, "lora_module_name": "layers.", "only_optimize_lora": True}


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_rows(folder: Path) -> Path:
    """pairs/ with chat preferences and prompts/ with the sentence task; 4 rows each, and 2 to test.

    Responses have different lengths, so that batches are padded.
    """
    pairs = []
    for i, word in enumerate(WORDS[:6]):
        question = said("user", f"Say something about the {word}.")
        good = f"The {word} is old{' and quite beautiful' * (i % 3)}."
        answers = {"chosen": good, "rejected": f"No.{' I will not say that.' * (i % 2)}"}
        pairs.append({n: [question, said("assistant", text)] for n, text in answers.items()})
    prompts = [make_row(word) for word in WORDS[:6]]
    for name, rows in (("pairs", pairs), ("prompts", prompts)):
        (folder / name).mkdir(parents=True)
        for part, chosen in (("train", rows[:4]), ("test", rows[4:])):
            lines = "".join(json.dumps(row) + "\n" for row in chosen)
            (folder / name / f"{part}.jsonl").write_text(lines)
    return folder


def held_out_pairs(data: Path) -> list[dict[str, Any]]:
    """The held-out preferences."""
    lines = (data / "pairs" / "test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def fine_tune(model: Path, data: Path, out: Path) -> None:
    """Step 1: one optimiser step on all weights."""
    config = SupervisedConfig(
        model_name_or_path=str(model),
        data_path=[str(data / "pairs")],
        data_split="1,0,0",
        output_dir=str(out),
        max_seq_len=96,
        completion_only_loss=True,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=2,
        num_train_epochs=1,
        learning_rate=1e-4,
        seed=1,
    )
    config.validate()
    train_sft(config)
    gc.collect()


def train_reward(model: Path, data: Path, out: Path) -> None:
    """Step 2: one optimiser step on adapters and the new head."""
    config = RewardModelingConfig(
        model_name_or_path=str(model),
        data_path=[str(data / "pairs")],
        data_split="0,1,0",
        output_dir=str(out),
        max_seq_len=96,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=2,
        num_train_epochs=1,
        learning_rate=1e-3,
        seed=1,
        **LORA,
    )
    config.validate()
    train_reward_model(config)
    gc.collect()


def train_preferences(references: list[Path], data: Path, out: Path, **flags: Any) -> None:
    """DPO near two references: one optimiser step on adapters."""
    settings = {
        "dataset": data / "pairs",
        "refs": references,
        "ref_weights": [0.25, 0.75],
        "gamma": 0.3,
        "output_dir": out,
        "max_length": 96,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "lora_dim": 4,
        "learning_rate": 1e-3,
        **flags,
    }
    train_dpo(configured(settings))
    gc.collect()


def group_trainer(references: list[Path], data: Path, out: Path, **flags: Any) -> OnlineTrainer:
    """GRPO near two references, the first of which is the policy's start, on adapters."""
    config = grpo_config(
        refs=references,
        ref_weights=[0.25, 0.75],
        dataset=data / "prompts",
        output_dir=out,
        max_prompt_length=64,
        max_completion_length=8,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        num_generations=2,
        max_steps=1,
        lora_dim=4,
        learning_rate=1e-2,
        reward=f"{sentence_check.__file__}:SentenceReward",
        **flags,
    )
    return build_trainer(config, *start(config))


@torch.no_grad()
def plain_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """[T, V] float64 log-probabilities at each response token: one unpadded forward pass."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(dim=1)


def causal_lm(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def plain_scores(folder: Path, texts: Sequence[Sequence[int]]) -> list[float]:
    """What transformers' own classifier says of token ids, in one padded batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    batch = tokenizer.pad({"input_ids": [list(ids) for ids in texts]}, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(**batch).logits[:, 0].tolist()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
