"""Parameter groups: what decays, and which learning rate it has."""

from __future__ import annotations

from pathlib import Path

from dschat.models.lora import add_lora
from dschat.training.optimizer import adamw
from transformers import AutoModelForCausalLM


def test_four_groups(tiny_model_dir: Path) -> None:
    model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_model_dir), 2, "q_proj")
    optimizer = adamw(model, learning_rate=1e-3, weight_decay=0.1, lora_learning_rate=1e-2)
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    named = dict(model.named_parameters())
    assert settings.keys() == {id(p) for p in named.values()}
    for name, parameter in named.items():
        rate = 1e-2 if "lora_" in name else 1e-3
        decay = 0.0 if "norm" in name else 0.1
        assert settings[id(parameter)] == (rate, decay), name


def test_frozen_weights_are_left_out(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    (group,) = adamw(model, 1e-3, 0.1).param_groups
    assert [p is model.lm_head.weight for p in group["params"]] == [True]
