"""Steps 1 to 3 and inference on a pretrained model whose padding and end token are one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_fixtures import command_line
from dschat.evaluation.respond.run import infer
from dschat.models.loading import load_reward_model, load_tokenizer
from dschat.rewards.reward_model import RewardModel
from dschat.settings.command_line import CommandLine
from dschat.settings.inference import InferenceConfig
from online_fixtures import make_trainer, score
from real_stages import (
    causal_lm,
    held_out_pairs,
    plain_logprobs,
    plain_scores,
    read_metrics,
)
from transformers import AutoTokenizer

pytestmark = pytest.mark.slow


def ids_of(tokenizer: Any, conversation: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Prompt, and response with its end token."""
    text = tokenizer.apply_chat_template(
        conversation[:-1], tokenize=False, add_generation_prompt=True
    )
    response = tokenizer(conversation[-1]["content"]).input_ids
    return tokenizer(text).input_ids, [*response, tokenizer.eos_token_id]


def test_step1_starts_at_the_cross_entropy_and_lowers_it(
    smollm2: Path, tuned: Path, data: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    losses = []
    for folder in (smollm2, tuned):
        model = causal_lm(folder)
        parts = []
        for pair in held_out_pairs(data):
            prompt, response = ids_of(tokenizer, pair["chosen"])
            logprobs = plain_logprobs(model, prompt, response)
            parts.append(-logprobs[range(len(response)), response])
        losses.append(float(torch.cat(parts).mean()))
    rows = read_metrics(tuned)
    assert rows[0]["eval_loss"] == pytest.approx(losses[0], abs=1e-4)
    assert rows[-1]["eval_loss"] == pytest.approx(losses[1], abs=1e-4)
    assert losses[1] < losses[0] - 0.1


def test_a_reward_model_is_read_alike_everywhere(
    reward_model: Path, tuned: Path, data: Path
) -> None:
    """Step 2's own evaluation, plain transformers and step 3's reward."""
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    pairs = held_out_pairs(data)
    texts = {n: [ids_of(tokenizer, pair[n]) for pair in pairs] for n in ("chosen", "rejected")}
    plain = {n: plain_scores(reward_model, [p + r for p, r in t]) for n, t in texts.items()}
    assert max(plain["chosen"]) != min(plain["chosen"])

    own = load_tokenizer(str(reward_model))
    classifier = load_reward_model(str(reward_model), own, torch.float32)
    reward = RewardModel(classifier, own.pad_token_id, 4, torch.device("cpu"))
    for name, parts in texts.items():
        examples = [{"prompt_ids": p, "response_ids": r} for p, r in parts]
        blank = [""] * len(examples)
        assert reward(blank, blank, examples) == pytest.approx(plain[name], abs=1e-4)

    last = read_metrics(reward_model.parent)[-1]
    for name, scores in plain.items():
        key = f"eval_{name}_score"
        assert last[key] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def inference(dataset: Path, model: Path, reward: Path, out: Path, **flags: Any) -> InferenceConfig:
    """The settings of inference_with_rewards.py."""
    words = {
        "proj-path": out,
        "dataset": dataset,
        "model": model,
        "no-actor-folder": True,
        "reward-model": reward,
        "batch-size": 2,
        **{name.replace("_", "-"): value for name, value in flags.items()},
    }
    return CommandLine(InferenceConfig).parse(command_line(words))


def test_step3_and_inference(tuned: Path, reward_model: Path, data: Path, tmp_path: Path) -> None:
    """One PPO iteration on adapters: it starts at the reference; the rewards are the classifier's;
    its saved actor answers as the trainer's would.
    """
    settings = {
        "data_path": [str(data / "prompts")],
        "data_split": "0,0,1",
        "actor_model_name_or_path": str(tuned),
        "critic_model_name_or_path": str(reward_model),
        "output_dir": str(tmp_path / "ppo"),
        "max_prompt_seq_len": 64,
        "max_answer_seq_len": 8,
        "per_device_generation_batch_size": 2,
        "per_device_training_batch_size": 2,
        "actor_lora_dim": 4,
        "critic_lora_dim": 4,
        "actor_lora_module_name": "layers.",
        "critic_lora_module_name": "layers.",
        "only_optimize_lora": True,
        "actor_lora_learning_rate": 1e-2,
        "seed": 7,
    }
    trainer = make_trainer(settings)
    rollouts = trainer.sample(trainer.prompts[:2])
    (experience,), _ = score(trainer, rollouts)
    examples = experience.rollout.examples
    texts = [[*e["prompt_ids"], *e["response_ids"]] for e in examples]
    assert experience.scores.tolist() == pytest.approx(plain_scores(reward_model, texts), abs=1e-4)

    metrics = trainer.run_iteration(trainer.prompts[:2])
    assert metrics["divergence"] == 0.0
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    trainer.checkpointer.save_models(trainer.generation_step)
    (step,) = (tmp_path / "ppo").glob("step-*")
    del trainer
    config = inference(
        data / "prompts", step / "actor", reward_model, tmp_path, temperature=0, max_new_tokens=6
    )
    infer(config)
    found = [json.loads(line) for line in config.output.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(step / "actor")
    model = causal_lm(step / "actor")
    for row in found:
        ids = tokenizer(row["prompt"]).input_ids
        out = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)
        response = out[0, len(ids) :].tolist()
        assert row["response"] == tokenizer.decode(response, skip_special_tokens=True)
        assert row["reward"] == pytest.approx(
            plain_scores(reward_model, [ids + response])[0], abs=1e-3
        )
