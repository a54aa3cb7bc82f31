"""Losses: however a batch is cut, whatever is masked, near a clip and far from it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from dschat.algorithms import ppo_diagnostics, ppo_policy_loss, value_loss
from dschat.algorithms.losses import NORMALIZATIONS, loss_count, reduce_losses
from hypothesis import given
from hypothesis import strategies as st
from property_settings import checked
from tensor_strategies import WORST, Responses, responses
from torch import Tensor

CLIP = 0.2
Loss = Callable[..., Tensor]


def policy(inputs: list[Tensor], mask: Tensor, **options: object) -> Tensor:
    return ppo_policy_loss(*inputs, mask, CLIP, **options)


def value(inputs: list[Tensor], mask: Tensor, **options: object) -> Tensor:
    return value_loss(*inputs, mask, CLIP, **options)


def inputs_of(b: Responses, loss: Loss) -> list[Tensor]:
    """logprobs, old_logprobs and advantages; or values, old_values and returns."""
    old = b.draw(0) - 3 * (loss is policy)
    return [old + b.draw(1, 0.3), old, b.draw(2)]


@checked
@given(
    responses(),
    st.sampled_from([policy, value]),
    st.sampled_from(NORMALIZATIONS),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_shards_add_up_wherever_a_batch_is_cut(
    b: Responses, loss: Loss, normalization: str, cuts: list[int]
) -> None:
    options = {"normalization": normalization} if loss is policy else {}
    count = loss_count(b.mask, options.get("normalization", "token"))
    inputs = inputs_of(b, loss)
    rows = len(b.lengths)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    shares = [
        loss([x[i:j] for x in inputs], b.mask[i:j], count=count, **options)
        for i, j in pairwise(edges)
    ]
    whole = loss(inputs, b.mask, **options)
    torch.testing.assert_close(sum(shares), whole, rtol=1e-9, atol=1e-12)
    counts = [loss_count(b.mask[i:j], normalization) for i, j in pairwise(edges)]
    assert sum(counts) == loss_count(b.mask, normalization)


@checked
@given(responses(), st.sampled_from([policy, value]), st.sampled_from(WORST), st.integers(0, 2))
def test_what_is_masked_reaches_neither_loss_nor_gradient(
    b: Responses, loss: Loss, worst: float, which: int
) -> None:
    found = []
    for spoilt in (0.0, worst):
        inputs = [b.spoilt(x, 0.0) for x in inputs_of(b, loss)]
        inputs[which] = b.spoilt(inputs[which], spoilt)
        inputs[0].requires_grad_()
        total = loss(inputs, b.mask)
        total.backward()
        found.append((total.detach(), inputs[0].grad))
    torch.testing.assert_close(found[0], found[1])
    assert (found[1][1][~b.mask] == 0).all()


@checked
@given(responses(), st.sampled_from(("token", "sequence")), st.floats(-3, 3))
def test_a_mean_is_a_mean(b: Responses, normalization: str, level: float) -> None:
    losses = torch.full((len(b.lengths), b.columns), level, dtype=torch.float64)
    expected = level if b.mask.any() else 0.0
    assert float(reduce_losses(losses, b.mask, None, normalization)) == pytest.approx(expected)


@checked
@given(st.floats(-2, 2), st.floats(-3, 3), st.floats(0.01, 0.9), st.floats(0.01, 2))
def test_one_token_of_the_policy(
    log_ratio: float, advantage: float, low: float, high: float
) -> None:
    new = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros_like(new), torch.ones(1, 1, dtype=torch.bool)
    a = torch.tensor([[advantage]], dtype=torch.float64)
    loss = ppo_policy_loss(new, old, a, mask, low, clip_high=high)
    loss.backward()
    loss = loss.detach()
    ratio = float(new.detach().exp())
    # Pessimistic: never better than without a clip, and no gain beyond the clip.
    assert float(loss) >= -advantage * ratio - 1e-12
    assert -float(loss) <= max(advantage * (1 + high), advantage * (1 - low)) + 1e-12
    outside = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    slope = 0.0 if outside else -advantage * ratio
    assert float(new.grad) == pytest.approx(slope, rel=1e-9, abs=1e-12)
    told = ppo_diagnostics(new, old, mask, low, high)
    assert bool(told["clip_fraction"]) == (ratio > 1 + high or ratio < 1 - low)
    assert float(told["update_kl"]) >= -1e-12


@checked
@given(responses(), st.sampled_from([policy, value]), st.sampled_from(NORMALIZATIONS))
def test_gradients_are_those_of_finite_differences(
    b: Responses, loss: Loss, normalization: str
) -> None:
    options = {"normalization": normalization} if loss is policy else {}
    inputs = inputs_of(b, loss)
    direction = b.draw(5)
    inputs[0].requires_grad_()
    loss(inputs, b.mask, **options).backward()
    slope = float((inputs[0].grad * direction).sum())

    def at(step: float) -> float:
        moved = [inputs[0].detach() + step * direction, *inputs[1:]]
        return float(loss(moved, b.mask, **options))

    h = 1e-6
    left, right = (at(0) - at(-h)) / h, (at(h) - at(0)) / h
    # At a kink (a clip) either side's slope is one; elsewhere they agree with it.
    assert min(left, right) - 1e-4 <= slope <= max(left, right) + 1e-4
