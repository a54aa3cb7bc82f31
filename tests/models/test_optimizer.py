"""Parameter groups: what decays, and which learning rate it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.models.lora import add_lora, train_rows
from dschat.models.optimizer import adamw, rates_text
from dschat.settings.command_line import CommandLine
from dschat.settings.dpo import DirectPreferenceConfig
from dschat.settings.online_scripts import GRPO, PPO
from dschat.settings.supervised import (
    RewardModelingConfig,
    SupervisedConfig,
    adapter_learning_rate,
)
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


def test_the_line_at_the_start_says_which_parameters_learn_at_which_rate(
    tiny_model_dir: Path,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    every = sum(p.numel() for p in model.parameters())
    line = rates_text(model, adamw(model, 1e-5, 0.1), "The actor")
    assert line == f"The actor: {every:,} parameters learn at 1e-05."
    model = add_lora(model, 2, "q_proj", only_optimize_lora=True)
    adapters = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    line = rates_text(model, adamw(model, 1e-5, 0.1, 5e-4), "The model")
    assert f"{adapters:,} adapter parameters learn at 0.0005" in line
    assert f"{every:,} other parameters are frozen" in line
    train_rows(model.get_base_model(), [5, 6])  # of two tables
    line = rates_text(model, adamw(model, 1e-5, 0.1, 5e-4), "The model")
    rows = 2 * 2 * model.get_input_embeddings().weight.shape[1]
    assert f"{rows:,} other parameters learn at 0.0005" in line
    assert f"{every - rows:,} other parameters are frozen" in line


DPO = CommandLine(DirectPreferenceConfig)
STEP3 = ["--actor_model_name_or_path", "m", "--critic_model_name_or_path", "c"]
STEP3 += ["--output_dir", "o", "--data_path", "d"]
LORA_SCRIPTS: list[tuple[Any, str, list[str]]] = [
    (CommandLine(SupervisedConfig), "", ["--model_name_or_path", "m", "--output_dir", "o"]),
    (CommandLine(RewardModelingConfig), "", ["--model_name_or_path", "m", "--output_dir", "o"]),
    (DPO, "", ["--refs", "r", "--output_dir", "o"]),
    (GRPO, "", ["--refs", "r", "--output_dir", "o"]),
    (PPO, "actor_", STEP3),
    (PPO, "critic_", STEP3),
]


DEFAULT = object()
"""The default of --learning_rate, typed."""


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({}, 5e-4),
        ({"learning_rate": "2e-5"}, 2e-5),
        ({"learning_rate": DEFAULT}, DEFAULT),
        ({"lora_learning_rate": "3e-4"}, 3e-4),
        ({"learning_rate": "2e-5", "lora_learning_rate": "3e-4"}, 3e-4),
    ],
)
@pytest.mark.parametrize(("script", "role", "base"), LORA_SCRIPTS)
def test_one_rule_for_the_rate_of_adapters(
    script: Any, role: str, base: list[str], given: dict[str, Any], rate: Any
) -> None:
    """What the optimiser is given, in every script: the adapters' own rate, else the model's."""
    default = next(f.default for f in script.flags() if f.name == f"{role}learning_rate")
    given = {name: str(default) if value is DEFAULT else value for name, value in given.items()}
    rate = default if rate is DEFAULT else rate
    flags = [word for name, value in given.items() for word in (f"--{role}{name}", value)]
    config = script.parse([*base, f"--{role}lora_dim", "4", *flags])
    if script is DPO:
        assert config.fine_tuning().lora_learning_rate == rate
    else:
        assert adapter_learning_rate(config, "actor_" if script is GRPO else role) == rate


@pytest.mark.parametrize("script", [DPO, GRPO])
def test_a_rate_of_adapters_needs_adapters(script: Any) -> None:
    base = ["--refs", "r", "--output_dir", "o"]
    with pytest.raises(UserError, match="--lora_learning_rate needs adapters"):
        script.parse([*base, "--lora_learning_rate", "1e-3"])
    with pytest.raises(UserError, match="--lora_learning_rate 0.0: expected (a number )?above 0"):
        script.parse([*base, "--lora_dim", "4", "--lora_learning_rate", "0"])
