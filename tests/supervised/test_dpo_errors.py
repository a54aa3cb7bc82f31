"""What DPO with several references refuses, and what it then says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_fixtures import configured, save_model
from dschat.errors import UserError
from dschat.supervised.dpo import train_dpo
from preferences import rows
from transformers import AutoModelForCausalLM

Settings = Callable[..., dict[str, Any]]


def test_other_tokens_are_named(
    dpo_models: dict[str, str], dpo_settings: Settings, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import copy

    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["<teapot>"])
    save_model(tmp_path / "other", other, seed=5)
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=str(tmp_path / "other"))
    with pytest.raises(UserError, match="different vocabularies.*<teapot>"):
        train_dpo(configured(flags))


def test_references_that_cannot_be_loaded_are_named(
    dpo_models: dict[str, str], dpo_settings: Settings, tmp_path: Path
) -> None:
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--ref_b .*nowhere: no such folder"):
        train_dpo(configured(flags))
    broken = tmp_path / "broken"
    save = AutoModelForCausalLM.from_pretrained(dpo_models["b"])
    save.config.save_pretrained(broken)
    for file in Path(dpo_models["b"]).glob("tokenizer*"):
        (broken / file.name).write_bytes(file.read_bytes())
    flags = dpo_settings(refs=[dpo_models["a"], str(broken)])
    with pytest.raises(UserError, match="--refs .*broken: the folder cannot be read"):
        train_dpo(configured(flags))
    assert not (Path(flags["output_dir"]) / "model.safetensors").exists()


def test_numbers_that_are_none_are_told(
    dpo_models: dict[str, str], dpo_settings: Settings, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "nan", tiny_tokenizer, seed=6)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.constant_(model.get_output_embeddings().weight, math.nan)
    model.save_pretrained(folder)
    flags = dpo_settings(refs=[dpo_models["a"], str(folder)])
    with pytest.raises(UserError, match="no finite numbers for 16 of 16 pairs"):
        train_dpo(configured(flags))


def test_data_without_rejected_responses_is_refused(
    dpo_models: dict[str, str], dpo_settings: Settings, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({**r, "rejected": None}) + "\n" for r in rows(6)))
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=dpo_models["b"], dataset=str(data))
    with pytest.raises(UserError, match="missing field 'rejected'"):
        train_dpo(configured(flags))


def test_prompts_that_fill_the_length_are_told(
    dpo_models: dict[str, str], dpo_settings: Settings
) -> None:
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=dpo_models["b"], max_length=4)
    with pytest.raises(UserError, match="--max_length"):
        train_dpo(configured(flags))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"gamma": 0}, "--gamma 0"),
        ({"max_log_ratio": 100}, "--max_log_ratio"),
        ({"bf16": True, "fp16": True}, "contradict"),
        ({"max_steps": 0}, "--max_steps 0"),
        ({"max_prompt_length": 64}, "less than"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "one of them"),
        ({"logging_steps": 0}, "--logging_steps"),
        ({"learning_rate": -1}, "--learning_rate"),
        ({"zero_stage": 4}, "0, 1, 2 or 3"),
        ({"alpha": 2}, "--alpha 2"),
        ({"ref_weights": [0.5, 0.5]}, "--refs"),
        ({"enable_hybrid_engine": True}, "hybrid engine"),
        ({"refs": ["x"]}, "one of the two"),
        ({"model_name_or_path": "x"}, "--model"),
        ({"checkpoint_steps": -1}, "--checkpoint_steps -1"),
    ],
)
def test_flags_that_cannot_be_meant(
    flags: dict[str, Any], says: str, dpo_settings: Settings
) -> None:
    with pytest.raises(UserError, match=says):
        configured(dpo_settings(ref_a="a", ref_b="b", **flags))


@pytest.mark.parametrize("flags", [{"kl_type": "js"}, {"report_to": "mlflow"}])
def test_choices_are_listed(flags: dict[str, Any], dpo_settings: Settings) -> None:
    with pytest.raises(SystemExit):
        configured(dpo_settings(ref_a="a", ref_b="b", **flags))
