"""LoRA adapters and their merging, against PEFT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.lora import add_lora, is_lora, merged_state_dict


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def disturb_adapters(model: torch.nn.Module) -> None:
    """Give the B matrices, zero at first, random values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )


def test_the_function_is_at_first_unchanged(tiny_model_dir: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    model = load(tiny_model_dir).eval()
    before = model(ids).logits
    assert torch.equal(add_lora(model, 4, "model.layers.").eval()(ids).logits, before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_weights_are_pefts(architecture: str, tiny_model_dir: Path) -> None:
    if architecture == "llama":
        model = add_lora(load(tiny_model_dir), 4, "self_attn")
    else:
        model = add_lora(gpt2(), 4, "attn.c_attn")
    disturb_adapters(model)
    ours = merged_state_dict(model, model.state_dict())
    theirs = model.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-5)


def test_only_the_named_layers_and_never_the_output_layer(tiny_model_dir: Path) -> None:
    model = add_lora(load(tiny_model_dir), 4, "", only_optimize_lora=True)
    adapted = {n.split(".lora_")[0] for n, _ in model.named_parameters() if is_lora(n)}
    assert len(adapted) == 2 * 7  # two layers of four attention and three MLP projections
    assert not any("lm_head" in name for name in adapted)
    assert all(is_lora(n) == p.requires_grad for n, p in model.named_parameters())


def test_base_weights_train_too_unless_told_otherwise(tiny_model_dir: Path) -> None:
    model = add_lora(load(tiny_model_dir), 4, "model.layers.")
    assert all(p.requires_grad for p in model.parameters())


def test_a_reward_head_always_trains(tiny_reward_dir: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_dir)
    model = add_lora(model, 4, "model.layers.", only_optimize_lora=True)
    whole = [n for n, p in model.named_parameters() if p.requires_grad and not is_lora(n)]
    assert whole == ["base_model.model.score.weight"]


def test_a_name_that_fits_nothing_is_answered_with_names_that_do(tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match=r"q_proj.*--lora_module_name model\.layers\."):
        add_lora(load(tiny_model_dir), 4, "decoder.layers.")
