"""The expected gradient of TRL's loss with our penalty, over all responses of a small world.

Every pair of responses is a group of two. Weighted with the pair's probability, the update is
(1 - 1/2) * 2 times the gradient of E[R] - beta E[sum_t D], reward and penalty alike.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.regularization import FDivergence, KLDivergence
from tabular import DIVERGENCES, LIMIT, RESPONSES, TOKENS
from trl_fixtures import Written, gradients, inputs_of, trainer_of, varied

BETA, PROMPT = 0.7, [1, 2]
PAIRS = list(itertools.product(range(len(RESPONSES)), repeat=2))
SCORES = 0.5 * torch.randn(len(RESPONSES), generator=torch.Generator().manual_seed(5))


def small_world() -> tuple[Any, Any]:
    """A model of the three tokens of `tabular`, of which 0 ends a response; and a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<eos>": 0, "x": 1, "y": 2}, unk_token="x"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="x")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "initializer_range": 0.5}
    config = LlamaConfig(vocab_size=TOKENS, eos_token_id=0, pad_token_id=0, **sizes, **heads)
    return LlamaForCausalLM(config), tokenizer


def objective(model: Any, reference: Any, divergence: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """E[R] - beta E[sum_t D], differentiable, and the probability of each response."""
    total, probabilities = torch.zeros(()), []
    for response, score in zip(RESPONSES, SCORES, strict=True):
        ids = torch.tensor([[*PROMPT, *response]])
        at = slice(len(PROMPT) - 1, -1)
        pi, rho = (m(input_ids=ids).logits[0, at].softmax(-1) for m in (model, reference))
        probability = pi[torch.arange(len(response)), torch.tensor(response)].prod()
        distance = sum(divergence(p, r.detach()) for p, r in zip(pi, rho, strict=True))
        total = total + probability * (score - BETA * distance)
        probabilities.append(probability.detach())
    return total, torch.stack(probabilities)


@pytest.mark.parametrize("name", ["rkl", "js"])
def test_the_expected_update_is_the_gradient(name: str, tmp_path: Path) -> None:
    model, tokenizer = small_world()
    reference = varied(model, 1, size=0.3)
    regularizer = KLDivergence() if name == "rkl" else FDivergence(name, form="gradient")
    exact, probabilities = objective(model, reference, DIVERGENCES[name])
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    exact.backward()
    expected = gradients(model).clone()
    model.zero_grad()
    prompts = [f"p{i}" for i in range(len(PAIRS))]
    completions = {
        p: [list(RESPONSES[i]) for i in pair] for p, pair in zip(prompts, PAIRS, strict=True)
    }
    scores = [float(SCORES[i]) for pair in PAIRS for i in pair]
    trainer = trainer_of(
        tmp_path,
        model,
        tokenizer,
        prompts,
        lambda completions, **_: scores,
        Written(dict.fromkeys(prompts, PROMPT), completions),
        regularizer=regularizer,
        references=reference,
        coefficient=BETA,
        per_device_train_batch_size=len(scores),
        max_completion_length=LIMIT,
        scale_rewards="none",
        loss_type="dr_grpo",
    )
    model.train()
    output = trainer._generate_and_score_completions(inputs_of(prompts, 2))
    weights = torch.stack([probabilities[i] * probabilities[j] for i, j in PAIRS])
    output["advantages"] = output["advantages"] * weights.repeat_interleave(2).unsqueeze(1)
    trainer.compute_loss(model, output).backward()
    found = -gradients(model) * len(scores) * LIMIT  # dr_grpo divides by rows x longest response
    assert float((found - expected).norm() / expected.norm()) < 1e-4
