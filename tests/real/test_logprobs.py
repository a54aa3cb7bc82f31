"""Log-probabilities of a pretrained model: ours in padded batches, transformers' one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.models.loading import load_causal_lm, load_tokenizer
from dschat.models.policy import PolicyModel, check_output_layer
from dschat.rollout.experience import make_rollout
from real_stages import causal_lm, plain_logprobs

CHATS = {
    "Name the capital of France.": "The capital of France is Paris.",
    'Write one sentence that contains the word "river", please.': "A river runs.",
    "Hi!": "Hello! How can I help you today, my dear friend?",
}


def tokens(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Prompts by the chat template, of different lengths, and responses with their end token."""
    found = []
    for question, answer in CHATS.items():
        message = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        response = [*tokenizer(answer).input_ids, tokenizer.eos_token_id]
        found.append((tokenizer(text).input_ids, response))
    return found


def ours(folder: Path, rows: list[Any], temperature: float, dtype: torch.dtype) -> list[Any]:
    """A row's log-probabilities, from one padded batch of all rows."""
    tokenizer = load_tokenizer(str(folder))
    model = load_causal_lm(str(folder), tokenizer, dtype)
    check_output_layer(model)
    prompts, responses = [p for p, _ in rows], [r for _, r in rows]
    texts = [""] * len(rows)
    rollout = make_rollout(
        prompts,
        responses,
        texts,
        texts,
        [{} for _ in rows],
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        torch.device("cpu"),
    )
    policy = PolicyModel(model, temperature).eval()
    with torch.no_grad():
        found = policy(rollout.input_ids, rollout.attention_mask, rollout.response_mask)
    assert isinstance(found, torch.Tensor)
    return list(found.double().split([len(r) for r in responses]))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_fp32(smollm2: Path, temperature: float) -> None:
    rows = tokens(load_tokenizer(str(smollm2)))
    model = causal_lm(smollm2)
    found = ours(smollm2, rows, temperature, torch.float32)
    for (prompt, response), logprobs in zip(rows, found, strict=True):
        plain = (plain_logprobs(model, prompt, response) / temperature).log_softmax(dim=1)
        expected = plain[range(len(response)), response]
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
    # The model knows this: it is a pretrained one.
    assert float(found[0].exp().prod()) ** (1 / len(found[0])) > 0.3


def test_bf16_is_no_further_from_fp32_than_transformers_is(smollm2: Path) -> None:
    rows = tokens(load_tokenizer(str(smollm2)))
    exact, rounded = causal_lm(smollm2), causal_lm(smollm2, torch.bfloat16)
    found = ours(smollm2, rows, 1.0, torch.bfloat16)
    our_error, their_error = [], []
    for (prompt, response), logprobs in zip(rows, found, strict=True):
        chosen = (range(len(response)), response)
        truth = plain_logprobs(exact, prompt, response)[chosen]
        our_error.append((logprobs - truth).abs())
        their_error.append((plain_logprobs(rounded, prompt, response)[chosen] - truth).abs())
    assert float(torch.cat(our_error).mean()) < 1.5 * float(torch.cat(their_error).mean()) + 0.01
    assert float(torch.cat(our_error).mean()) < 0.1
