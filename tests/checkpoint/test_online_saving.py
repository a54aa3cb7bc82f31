"""What the online trainer writes: folders that load anywhere, or none; adapters merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from online_fixtures import make_trainer, online_settings


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    return lambda **changes: online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes)


def test_saved_folders_load_anywhere_and_hold_the_trained_weights(settings: Any) -> None:
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    trainer = make_trainer(settings())
    trainer.run_iteration(trainer.prompts[:8])
    trainer.checkpointer.save_models(trainer.generation_step)
    folder = Path(trainer.config.output_dir) / "step-1"
    for name, loader in (
        ("actor", AutoModelForCausalLM),
        ("critic", AutoModelForSequenceClassification),
    ):
        loaded = loader.from_pretrained(folder / name).state_dict()
        own = getattr(trainer, name).module.model.state_dict()
        assert loaded.keys() == own.keys()
        assert all(torch.equal(loaded[k], own[k]) for k in own)
    assert len(AutoTokenizer.from_pretrained(folder / "actor")) == 200


def test_a_full_disk_leaves_no_half_written_checkpoint(settings: Any, monkeypatch: Any) -> None:
    import errno

    trainer = make_trainer(settings())
    monkeypatch.setattr(
        type(trainer.critic.module.model),
        "save_pretrained",
        lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(UserError, match="full|space"):
        trainer.checkpointer.save_models(trainer.generation_step)
    output = Path(trainer.config.output_dir)
    assert not list(output.glob("*step-*"))
    assert not list(output.glob(".*tmp*"))


@pytest.mark.parametrize("only", [False, True])
def test_lora_adapters_learn_and_are_merged_when_saved(settings: Any, only: bool) -> None:
    from transformers import AutoModelForCausalLM

    trainer = make_trainer(
        settings(
            actor_lora_dim=4,
            actor_lora_module_name="layers.",
            critic_lora_dim=4,
            critic_lora_module_name="layers.",
            only_optimize_lora=only,
            actor_zero_stage=2,
        )
    )
    model = trainer.actor.module.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    first = trainer.run_iteration(trainer.prompts[:8])
    assert first["divergence"] == 0  # fresh adapters change nothing
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any("lora_B" in n for n in moved)
    assert any("lora_" not in n for n in moved) != only
    trainer.checkpointer.save_models(trainer.generation_step)
    folder = Path(trainer.config.output_dir) / "step-1" / "actor"
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(4, 24).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(
            merged(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-5, rtol=1e-4
        )
