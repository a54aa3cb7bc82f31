"""GRPO and DPO near two references, a pretrained model and its fine-tuned copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from online_fixtures import score
from real_stages import (
    causal_lm,
    group_trainer,
    held_out_pairs,
    plain_logprobs,
    read_metrics,
    train_preferences,
)
from torch.nn.functional import logsigmoid
from transformers import AutoTokenizer

pytestmark = pytest.mark.slow
WEIGHTS = (0.25, 0.75)


@pytest.mark.parametrize("flags", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_grpo_measures_the_kl_to_each(
    smollm2: Path, tuned: Path, data: Path, tmp_path: Path, flags: dict[str, Any]
) -> None:
    """Against sums over the vocabulary by plain forward passes; the policy is the first one."""
    trainer = group_trainer([smollm2, tuned], data, tmp_path, kl_estimator="exact", **flags)
    rollouts = trainer.sample([prompt for prompt in trainer.prompts[:2] for _ in range(2)])
    (experience,), _ = score(trainer, rollouts)
    dtype = torch.bfloat16 if flags else torch.float32
    policy, other = causal_lm(smollm2, dtype), causal_lm(tuned, dtype)
    expected, tokens = 0.0, 0
    for example in experience.rollout.examples:
        prompt, response = example["prompt_ids"], example["response_ids"]
        log_pi, log_rho = (plain_logprobs(m, prompt, response) for m in (policy, other))
        expected += float((log_pi.exp() * (log_pi - log_rho)).sum())
        tokens += len(response)
    mask = experience.rollout.response_mask
    assert int(mask.sum()) == tokens
    found = float(experience.divergence[mask].double().mean())
    tolerance = 0.15 if flags else 1e-3
    assert found == pytest.approx(WEIGHTS[1] * expected / tokens, rel=tolerance)
    metrics = trainer.run_iteration(trainer.prompts[:2])
    assert metrics["penalty/divergence/ref_0"] == 0.0
    assert metrics["penalty/divergence/ref_1"] > 0.0
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["actor_grad_norm"] > 0


def test_dpo_starts_at_the_formula(smollm2: Path, tuned: Path, data: Path, tmp_path: Path) -> None:
    """Implicit rewards of the policy, the first reference, against plain forward passes."""
    train_preferences([smollm2, tuned], data, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    models = [causal_lm(folder) for folder in (smollm2, tuned)]

    def implicit(conversation: list[dict[str, str]]) -> float:
        text = tokenizer.apply_chat_template(
            conversation[:-1], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text).input_ids
        response = [*tokenizer(conversation[-1]["content"]).input_ids, tokenizer.eos_token_id]
        pi, other = (
            float(plain_logprobs(m, prompt, response)[range(len(response)), response].sum())
            for m in models
        )
        return 0.3 * WEIGHTS[1] * (pi - other)

    pairs = held_out_pairs(data)
    margins = torch.tensor([implicit(p["chosen"]) - implicit(p["rejected"]) for p in pairs])
    first, *_, last = read_metrics(tmp_path)
    assert first["eval_rewards/margins"] == pytest.approx(float(margins.mean()), rel=1e-3, abs=1e-4)
    assert first["eval_loss"] == pytest.approx(float(-logsigmoid(margins).mean()), rel=1e-4)
    assert last["eval_loss"] != first["eval_loss"]
