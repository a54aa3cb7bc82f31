"""--add_eot_token --only_optimize_lora: the new token's row is learnt, and no other one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.models.lora import add_lora, merged_state_dict
from dschat.models.optimizer import adamw
from online_fixtures import make_trainer, online_settings
from resume_fixtures import forget_zero3
from step_fixtures import run_step
from tiny import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

NEW = "<|end|>"


@pytest.mark.parametrize("tied", [False, True])
def test_other_rows_stay_bit_for_bit(tied: bool, tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = tiny_config(tiny_tokenizer, vocab_size=203, tie_word_embeddings=tied)
    plain = LlamaForCausalLM(config)
    before = {n: p.detach().clone() for n, p in plain.state_dict().items()}
    model = add_lora(plain, 2, "q_proj", only_optimize_lora=True, new_rows=(201,))
    optimizer = adamw(model, 1e-2, weight_decay=0.5, lora_learning_rate=3e-2)
    ids = torch.tensor([[5, 6, 7, 201], [9, 201, 8, 5]])
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    after = merged_state_dict(model, model.state_dict())
    others = torch.arange(203) != 201
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][others], before[name][others]), name
        # The first of Adam's steps is the learning rate's size, whatever the gradient.
        moved = (after[name][201] - before[name][201]).abs()
        assert float(moved.median()) > 0.02, name
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"]) == tied
    changed = [n for n, p in after.items() if not torch.equal(p, before[n])]
    assert all("q_proj" in n or "embed" in n or "lm_head" in n for n in changed)


def train(
    settings: Callable[..., dict[str, Any]], model: Path, output: Path, **flags: Any
) -> tuple[Any, Any]:
    """Step 1 with a new end token; the saved model as plain transformers loads it."""
    made = settings(
        model_name_or_path=str(model),
        output_dir=str(output),
        data_split="1,0,0",
        end_of_conversation_token=NEW,
        add_eot_token=True,
        lora_dim=4,
        lora_module_name="model.layers.",
        lora_learning_rate=5e-2,
        only_optimize_lora=True,
        num_train_epochs=15,
        **flags,
    )
    run_step("sft", made)
    forget_zero3()
    return AutoModelForCausalLM.from_pretrained(output).eval(), AutoTokenizer.from_pretrained(
        output
    )


@torch.no_grad()
def chance_of_the_end(model: Any, tokenizer: Any, data: Path) -> float:
    """Of the new token after each training response, on average, by plain transformers."""
    chances = []
    for line in (data / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids = tokenizer(row["prompt"])["input_ids"] + tokenizer(row["chosen"])["input_ids"]
        logits = model(torch.tensor([ids])).logits[0, -1]
        chances.append(float(logits.softmax(-1)[tokenizer.convert_tokens_to_ids(NEW)]))
    return sum(chances) / len(chances)


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "stage"), [(False, 0), (True, 3), (False, 2)])
def test_the_end_is_learnt(
    tied: bool,
    stage: int,
    settings: Any,
    preference_dir: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    base = LlamaForCausalLM(tiny_config(tiny_tokenizer, tie_word_embeddings=tied))
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    rows = [layer.weight for layer in (base.get_input_embeddings(), base.get_output_embeddings())]
    model, tokenizer = train(settings, tmp_path / "base", tmp_path / "out", zero_stage=stage)
    assert torch.equal(model.get_input_embeddings().weight[:200], rows[0])
    assert torch.equal(model.get_output_embeddings().weight[:200], rows[1])
    assert chance_of_the_end(model, tokenizer, preference_dir) > 0.5


@pytest.mark.slow
def test_step_3_has_a_reference_that_does_not_learn_the_row(
    tiny_model_dir: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    lora = {"actor_lora_dim": 2, "actor_lora_module_name": "layers.", "critic_lora_dim": 2,
            "critic_lora_module_name": "layers.", "only_optimize_lora": True}  # fmt: skip
    new = {"end_of_conversation_token": NEW, "add_eot_token": True}
    settings = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **lora, **new)
    trainer = make_trainer(settings)
    with trainer.scorer.penalty.references[0].on_device() as reference:
        assert reference is not trainer.actor.module
        before = {n: p.clone() for n, p in reference.model.state_dict().items()}
    with trainer.report.log:
        assert trainer.train()
    with trainer.scorer.penalty.references[0].on_device() as reference:
        assert all(torch.equal(p, before[n]) for n, p in reference.model.state_dict().items())
    for engine in (trainer.actor, trainer.critic):
        weight = engine.module.model.get_base_model().get_input_embeddings().weight
        assert weight.requires_grad
        assert torch.equal(weight[:200], AutoModelForCausalLM.from_pretrained(
            tiny_model_dir if engine is trainer.actor else tiny_reward_dir
        ).get_input_embeddings().weight)  # fmt: skip
