"""A prompt that several responses share: the same numbers and gradients, in fewer tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dschat.models.key_values import PromptPlan, shared_prompts
from dschat.models.policy import PolicyModel
from small_models import PAD, SMALL, VOCABULARY, small_model


def batch(prompts: list[int], response: int = 5) -> tuple[torch.Tensor, ...]:
    """Rows with the numbered prompts (2, 9 and 7 tokens) and responses of their own lengths."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (count,), generator=draw).tolist()

    own = [tokens(n) for n in (2, 9, 7)]
    lengths = [1 + (3 * i) % response for i in range(len(prompts))]
    lengths[0] = response
    ids, attention, mask = [], [], []
    for prompt, length in zip(prompts, lengths, strict=True):
        left, right = 9 - len(own[prompt]), response - length
        ids.append([PAD] * left + own[prompt] + tokens(length) + [PAD] * right)
        attention.append([0] * left + [1] * (9 - left + length) + [0] * right)
        mask.append([True] * length + [False] * right)
    return torch.tensor(ids), torch.tensor(attention), torch.tensor(mask)


def values_and_gradients(policy: Any, inputs: Any, plan: Any = None) -> list[torch.Tensor]:
    policy.zero_grad()
    logprobs = policy(*inputs, plan=plan)
    (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    return [logprobs.detach(), *(p.grad.clone() for p in policy.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", [k for k in SMALL if k != "mistral"])
@pytest.mark.parametrize("response", [1, 5])
def test_values_and_gradients_are_those_of_full_rows(kind: str, response: int) -> None:
    policy = PolicyModel(small_model(kind), 0.8)
    inputs = batch([1, 0, 0, 1, 2, 0, 1, 1], response)
    assert policy.plain_cache
    assert shared_prompts(*inputs[:2], response) is not None
    found = values_and_gradients(policy, inputs)
    policy.plain_cache = False
    expected = values_and_gradients(policy, inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-4)


def test_a_second_pass_that_no_response_needs_changes_nothing() -> None:
    """Another rank may need one; the gradient goes through both, as it does there."""
    policy = PolicyModel(small_model("llama"), 0.8)
    inputs = batch([1, 0, 0, 1, 2, 0, 1, 1], 1)
    plan = policy.plan(*inputs)
    assert plan.shared is not None
    assert not plan.second_pass
    expected = values_and_gradients(policy, inputs)
    passes: list[int] = []
    body = policy.model.model
    body.register_forward_hook(lambda *_: passes.append(1))
    body.norm.register_full_backward_hook(lambda *_: passes.append(-1))
    found = values_and_gradients(policy, inputs, PromptPlan(plan.shared, second_pass=True))
    assert passes == [1, 1, -1, -1]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_each_prompt_goes_through_the_model_once() -> None:
    policy = PolicyModel(small_model("llama"), 1.0)
    tokens = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal tokens
        tokens += kwargs["input_ids"].numel()

    policy.model.model.register_forward_pre_hook(count, with_kwargs=True)
    policy(*batch([0] * 4 + [1] * 4))
    assert tokens == 2 * 9 + 8 * 4


def test_which_rows_share_a_prompt() -> None:
    ids, attention, _ = batch([1, 0, 0, 1, 2, 0, 1, 1])
    found = shared_prompts(ids, attention, 5)
    assert found is not None
    prompts, rows = found
    assert len(prompts) == 3
    assert torch.equal(ids[prompts][rows][:, :9], ids[:, :9])
    # What lies under the padding does not tell prompts apart, but the padding does.
    other = ids.clone()
    other[attention == 0] = 7
    again = shared_prompts(other, attention, 5)
    assert again is not None
    assert torch.equal(again[1], rows)
    assert shared_prompts(*batch([0, 1, 2, 2, 1])[:2], 5) is None  # spares too little
    assert shared_prompts(*batch([0])[:2], 5) is None


def test_with_activation_checkpointing_rows_go_through_in_full() -> None:
    policy = PolicyModel(small_model("llama"), 0.8).train()
    inputs = batch([1, 0, 0, 1, 2, 0, 1, 1])
    expected = values_and_gradients(policy, inputs)
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    found = values_and_gradients(policy, inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-4)


def test_attention_implementations_agree() -> None:
    """Shared prompts add their keys and values to masks that each implementation builds itself."""
    policy = PolicyModel(small_model("llama"), 0.8).train()
    inputs = batch([1, 0, 0, 1, 2, 0, 1, 1])
    found = {}
    for name in ("eager", "sdpa"):
        policy.model.set_attn_implementation(name)
        assert policy.model.model.layers[0].self_attn.config._attn_implementation == name
        assert policy.plan(*inputs).shared is not None
        found[name] = policy(*inputs)
    torch.testing.assert_close(found["eager"], found["sdpa"], atol=1e-5, rtol=0)
