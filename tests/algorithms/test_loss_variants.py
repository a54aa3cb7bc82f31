"""GSPO, CISPO, the normalisers and the dual clip beside TRL's own loss, on the same tensors."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms import loss_count
from dschat.algorithms.estimators import Advantages, Responses, grpo_advantage, whitened
from dschat.settings.parts import POLICY_LOSSES
from torch import Tensor

LENGTH = 5
OURS = {
    "clip_range": 0.2,
    "clip_range_high": 0.28,
    "dual_clip": None,
    "gspo_clip_range": 0.2,
    "gspo_clip_range_high": 0.28,
    "cispo_ratio_min": 0.0,
    "cispo_ratio_max": 1.28,
}


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logprobs (that have moved beyond both clip ranges), old ones, an advantage each, mask."""
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(6, LENGTH, generator=generator, dtype=torch.float64) - 1
    moved = 0.5 * torch.randn(6, 1, generator=generator, dtype=torch.float64)
    moved = moved + 0.3 * torch.randn(old.shape, generator=generator, dtype=torch.float64)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([5, 3, 1, 4, 2, 5])
    mask = torch.arange(LENGTH) < lengths.unsqueeze(1)
    return old + moved, old, advantages, mask


def loss_of(name: str, inputs: Any, normalization: str, **changes: Any) -> Tensor:
    logprobs, old, advantages, mask = inputs
    settings = SimpleNamespace(**OURS | {"loss_normalization": normalization} | changes)
    count = loss_count(mask, normalization, LENGTH)
    advantages = advantages if advantages.dim() == 2 else advantages.unsqueeze(1).expand_as(old)
    return POLICY_LOSSES[name].load()(logprobs, old, advantages, mask, count, settings)[0]


def trls(inputs: Any, loss_type: str, level: str, delta: float | None) -> Tensor:
    """`GRPOTrainer._compute_loss` on tensors, without a model."""
    from trl import GRPOTrainer

    logprobs, old, advantages, mask = inputs
    accelerator = SimpleNamespace(
        num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x
    )
    trainer = object.__new__(GRPOTrainer)
    vars(trainer).update(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        args=SimpleNamespace(delta=delta, steps_per_generation=1),
        loss_type=loss_type,
        importance_sampling_level=level,
        # CISPO's is the largest weight itself.
        epsilon_low=0.2,
        epsilon_high=1.28 if loss_type == "cispo" else 0.28,
        beta=0.0,
        max_completion_length=LENGTH,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(old), None),
    )
    ids = torch.zeros(mask.shape, dtype=torch.long)
    return trainer._compute_loss(
        None,
        {
            "prompt_ids": ids,
            "prompt_mask": ids,
            "completion_ids": ids,
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old,
            "num_items_in_batch": mask.sum(),
        },
    )


@pytest.mark.slow  # importing TRL's trainer
@pytest.mark.parametrize(
    ("loss_type", "level", "delta", "name", "normalization"),
    [
        ("grpo", "token", None, "ppo_clip", "sequence"),
        ("grpo", "token", 1.5, "ppo_clip", "sequence"),
        ("bnpo", "token", None, "ppo_clip", "token"),
        ("dapo", "token", None, "ppo_clip", "token"),
        ("dapo", "token", 1.5, "ppo_clip", "token"),
        ("dr_grpo", "token", None, "ppo_clip", "constant"),
        ("cispo", "token", None, "cispo", "token"),
        ("grpo", "sequence", None, "gspo", "sequence"),
    ],
)
def test_value_and_gradient_are_trls(
    loss_type: str, level: str, delta: float | None, name: str, normalization: str
) -> None:
    inputs = batch()
    found = []
    for ours in (True, False):
        logprobs = inputs[0].clone().requires_grad_()
        given = (logprobs, *inputs[1:])
        loss = (
            loss_of(name, given, normalization, dual_clip=delta)
            if ours
            else trls(given, loss_type, level, delta)
        )
        found.append((loss.detach(), torch.autograd.grad(loss, logprobs)[0]))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-10)
    assert float(found[0][1].abs().max()) > 0.01


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo"])
def test_weights_of_the_advantages_are_weights_of_the_losses(name: str) -> None:
    logprobs, old, advantages, mask = batch(1)
    spread = advantages.unsqueeze(1).expand_as(old)
    weights = torch.rand(old.shape, generator=torch.Generator().manual_seed(2)).double()

    def gradient(a: Tensor) -> Tensor:
        leaf = logprobs.clone().requires_grad_()
        loss = loss_of(name, (leaf, old, a, mask), "token", dual_clip=1.5)
        return torch.autograd.grad(loss, leaf)[0]

    torch.testing.assert_close(gradient(weights * spread), weights * gradient(spread))


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo"])
def test_what_is_masked_may_be_anything(name: str) -> None:
    logprobs, old, advantages, mask = batch(3)
    spread = advantages.unsqueeze(1).expand_as(old)
    found = []
    for filler in (0.0, torch.nan):
        tensors = [torch.where(mask, x, filler) for x in (logprobs, old, spread)]
        leaf = tensors[0].requires_grad_()
        loss = loss_of(name, (leaf, tensors[1], tensors[2], mask), "token", dual_clip=1.5)
        found.append((loss, torch.autograd.grad(loss, leaf)[0]))
    torch.testing.assert_close(found[0], found[1])


def test_the_constant_normaliser_counts_masked_rows() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert [int(loss_count(mask, n, 7)) for n in ("token", "sequence", "constant")] == [1, 1, 14]


def test_whitened_advantages_have_mean_0_and_std_1() -> None:
    *_, mask = batch()
    values = torch.randn(mask.shape, generator=torch.Generator().manual_seed(4)).double()
    found = whitened(Advantages(torch.where(mask, values, torch.nan), scale=torch.ones(6)), mask)
    active = found.advantages[mask]
    torch.testing.assert_close(active.mean(), torch.zeros(()).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(active.std(correction=0), torch.ones(()).double(), atol=1e-6, rtol=0)
    # What the references' samples are divided by is what advantages were.
    assert found.scale is not None
    torch.testing.assert_close(found.scale, values[mask].std(correction=0).expand(6))


def test_trls_scaled_advantages_are_ours_times_a_constant() -> None:
    """TRL divides by the unbiased std + 1e-4: sqrt(1 - 1/G) of ours, but for the 1e-4."""
    scores = torch.tensor([1.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.0, 3.0])
    mask = torch.ones(8, 1, dtype=torch.bool)
    responses = Responses(scores, torch.zeros(8, 1), mask, torch.zeros(8, dtype=torch.long))
    ours = grpo_advantage(responses, SimpleNamespace(scale_rewards=True)).advantages[:, 0]
    theirs = (scores - scores.mean()) / (scores.std() + 1e-4)
    torch.testing.assert_close(theirs.double(), (7 / 8) ** 0.5 * ours, atol=2e-4, rtol=0)
