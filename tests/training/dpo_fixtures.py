"""Runs of DPO on tiny models, and their log-probabilities computed the long way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dschat.config import parse_config
from dschat.training.dpo_config import REPLACED_DPO_FLAGS, DirectPreferenceConfig
from tiny import tiny_config
from transformers import AutoModelForCausalLM, LlamaForCausalLM


def configured(flags: dict[str, Any]) -> DirectPreferenceConfig:
    """Parsed and checked as the script does."""
    return parse_config(DirectPreferenceConfig, command_line(flags), None, REPLACED_DPO_FLAGS)


def command_line(flags: dict[str, Any]) -> list[str]:
    """{"refs": ["a", "b"], "bf16": True} -> --refs a b --bf16."""
    words: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}"] + ([] if value is True else [str(v) for v in values])
    return words


def save_model(folder: Path, tokenizer: Any, seed: int, **settings: Any) -> Path:
    """A random tiny Llama with its tokenizer.

    Its logits are large: the default ones make all random models nearly the same distribution.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(tiny_config(tokenizer, initializer_range=0.1, **settings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def long_way(folder: Path, tokenizer: Any, prompt: str, response: str) -> float:
    """log-probability of response + end token by one unpadded forward pass and a log-softmax over
    the tokens that the tokenizer has.
    """
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].double()
    logprobs = logits[:, : len(tokenizer)].log_softmax(dim=1)
    return float(logprobs[range(len(after)), after].sum())
