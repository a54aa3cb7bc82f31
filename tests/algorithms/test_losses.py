"""PPO's losses: TRL-independent definitions, sharding, and what the gradient must be at ratio 1."""

import pytest
import torch
from dschat.algorithms import ppo_diagnostics, ppo_policy_loss, value_loss

CLIP = 0.2


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (6, 4)

    def draw(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    old = draw() - 3
    mask = torch.rand(shape, generator=generator) < 0.7
    return {
        "logprobs": old + draw(0.3),
        "old_logprobs": old,
        "advantages": draw(),
        "mask": mask,
        "values": draw(),
        "old_values": draw(),
        "returns": draw(),
    }


def policy_loss(b: dict[str, torch.Tensor], **options: object) -> torch.Tensor:
    return ppo_policy_loss(
        b["logprobs"], b["old_logprobs"], b["advantages"], b["mask"], CLIP, **options
    )


def critic_loss(b: dict[str, torch.Tensor], **options: object) -> torch.Tensor:
    return value_loss(b["values"], b["old_values"], b["returns"], b["mask"], CLIP, **options)


def test_losses_token_by_token() -> None:
    b = batch()
    policy, value, count = 0.0, 0.0, 0
    for i, j in b["mask"].nonzero().tolist():
        ratio = float((b["logprobs"][i, j] - b["old_logprobs"][i, j]).exp())
        a = float(b["advantages"][i, j])
        policy += -min(a * ratio, a * min(max(ratio, 1 - CLIP), 1 + CLIP))
        v, old, r = (float(b[n][i, j]) for n in ("values", "old_values", "returns"))
        clipped = min(max(v, old - CLIP), old + CLIP)
        value += 0.5 * max((v - r) ** 2, (clipped - r) ** 2)
        count += 1
    assert policy_loss(b) == pytest.approx(policy / count)
    assert critic_loss(b) == pytest.approx(value / count)


def test_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    b = batch(2)
    logprobs = b["old_logprobs"].clone().requires_grad_()
    ppo_policy_loss(logprobs, b["old_logprobs"], b["advantages"], b["mask"], CLIP).backward()
    expected = torch.where(b["mask"], -b["advantages"], torch.zeros(())) / b["mask"].sum()
    torch.testing.assert_close(logprobs.grad, expected)


def test_an_empty_batch_has_loss_zero_and_a_gradient() -> None:
    b = batch(4)
    b["mask"] = torch.zeros_like(b["mask"])
    b["logprobs"].requires_grad_()
    loss = policy_loss(b)
    loss.backward()
    assert loss == 0
    assert (b["logprobs"].grad == 0).all()


def test_diagnostics_are_zero_without_an_update() -> None:
    b = batch(5)
    parts = ppo_diagnostics(b["old_logprobs"], b["old_logprobs"], b["mask"], CLIP)
    assert parts["clip_fraction"] == 0
    assert parts["update_kl"] == 0
    assert parts["ratio"] == b["mask"].sum()
