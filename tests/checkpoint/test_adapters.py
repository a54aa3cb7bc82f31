"""--save_adapter: base and adapter, put together by PEFT, are the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.lora import add_lora, save_adapter
from dschat.settings.online import online_config
from dschat.settings.supervised import SupervisedConfig
from online_fixtures import make_trainer, online_settings
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

IDS = torch.arange(4, 24).unsqueeze(0)
LORA = {
    "actor_lora_dim": 4,
    "actor_lora_module_name": "layers.",
    "critic_lora_dim": 4,
    "critic_lora_module_name": "layers.",
    "only_optimize_lora": True,
    "save_adapter": True,
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("stage", [0, 3])
def test_peft_loads_the_merged_models(
    stage: int, tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    stages = {"actor_zero_stage": stage, "critic_zero_stage": stage}
    given = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **LORA, **stages)
    trainer = make_trainer(given)
    trainer.run_iteration(trainer.prompts[:8])
    trainer.checkpointer.save_models(trainer.generation_step)
    for role, kind, base in (
        ("actor", AutoModelForCausalLM, tiny_model_dir),
        ("critic", AutoModelForSequenceClassification, tiny_reward_dir),
    ):
        folder = Path(trainer.config.output_dir) / "step-1" / role
        merged = logits(kind.from_pretrained(folder))
        plain = logits(kind.from_pretrained(base))
        adapted = PeftModel.from_pretrained(kind.from_pretrained(base), folder / "adapter")
        assert (merged - plain).abs().max() > 1e-3  # something was learnt
        torch.testing.assert_close(logits(adapted), merged, atol=1e-5, rtol=1e-4)


def test_the_base_is_found_from_anywhere_and_the_file_is_always_the_same(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").symlink_to(tiny_model_dir)
    monkeypatch.chdir(tmp_path)
    model = add_lora(AutoModelForCausalLM.from_pretrained("base"), 2, "layers.")
    save_adapter(model, model.state_dict(), tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert Path(written["base_model_name_or_path"]) == tiny_model_dir.resolve()
    assert written["target_modules"] == sorted(written["target_modules"])
    assert (written["r"], written["lora_alpha"]) == (2, 1.0)
    model.peft_config["default"].base_model_name_or_path = "owner/model"
    save_adapter(model, model.state_dict(), tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "owner/model"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "Add --actor_lora_dim"),
        ({"actor_lora_dim": 4}, "Add --only_optimize_lora"),
        ({**LORA, "add_eot_token": True, "end_of_conversation_token": "<|e|>"}, "no adapter"),
    ],
)
def test_adapters_that_are_not_all_are_refused(
    flags: dict[str, Any], said: str, tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    flags = {**flags, "save_adapter": True}
    with pytest.raises(UserError, match=said):
        online_config(
            **online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **flags)
        ).validate()
    supervised = {"model_name_or_path": "m", "output_dir": "o", "save_adapter": True}
    with pytest.raises(UserError, match="Add --lora_dim"):
        SupervisedConfig(**supervised).validate()
