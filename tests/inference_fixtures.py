"""A run of inference on tiny models, and what it should give computed the long way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dpo_fixtures import command_line, save_model
from dschat.config import parse_config
from dschat.inference.config import InferenceConfig
from preferences import rows
from tiny import tiny_config
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
)

N = 11
NEW = 7


def make_project(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """A policy that has been trained to step 3, a reference, a reward model and data."""
    save_model(folder / "models" / "ppo" / "step-3" / "actor", tokenizer, 1)
    save_model(folder / "models" / "sft", tokenizer, 2)
    save_reward_model(folder / "models" / "rm", tokenizer)
    (folder / "data").mkdir()
    for name, part in (("train", rows(4)), ("test", rows(N, first=100))):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / "data" / f"{name}.jsonl").write_text(text)
    return {
        "proj-path": folder,
        "model": folder / "models" / "ppo" / "step-3",
        "reward-model": folder / "models" / "rm",
        "dataset": folder / "data",
        "max-new-tokens": NEW,
        "batch-size": 4,
    }


def save_reward_model(folder: Path, tokenizer: Any, **settings: Any) -> Path:
    torch.manual_seed(4)
    config = tiny_config(tokenizer, **{"num_labels": 1, "initializer_range": 0.3, **settings})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def configured(flags: dict[str, Any]) -> InferenceConfig:
    """Parsed and checked as the script does."""
    return parse_config(InferenceConfig, command_line(flags))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def greedy(folder: Path, tokenizer: Any, prompt: str, new: int) -> list[int]:
    """The likeliest token after the other, by whole forward passes without padding."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    found: list[int] = []
    while len(found) < new and tokenizer.eos_token_id not in found:
        found.append(int(model(torch.tensor([ids + found])).logits[0, -1].argmax()))
    return found


@torch.no_grad()
def score(folder: Path, ids: list[int]) -> float:
    """The classifier's own answer for one text without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return float(model(torch.tensor([ids])).logits)


@torch.no_grad()
def kl(policy: Path, reference: Path, ids: list[int], prompt_length: int, t: float) -> float:
    """Sum over the response's positions of KL(policy || reference), both tempered."""
    logs = [
        (AutoModelForCausalLM.from_pretrained(f).eval()(torch.tensor([ids])).logits[0] / t)
        .double()
        .log_softmax(dim=-1)[prompt_length - 1 : -1]
        for f in (policy, reference)
    ]
    return float((logs[0].exp() * (logs[0] - logs[1])).sum())
