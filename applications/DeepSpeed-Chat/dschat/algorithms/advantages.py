"""From rewards to advantages: GAE for PPO, group baselines for GRPO and RLOO."""

from __future__ import annotations

import torch
from torch import Tensor


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Expected one shape [B, T] for all, got {shapes}.")


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., ICLR 2016) over response tokens.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, where V after the
    last response token is 0: a response that ends, or is cut at the length limit, has no future.

    Args:
        rewards: [B, T] per-token rewards. values: [B, T] V(state before token t).
        mask: [B, T] bool, True on the response tokens, which start at column 0.
        gamma: discount in [0, 1]. lam: GAE's lambda in [0, 1].

    Returns:
        advantages [B, T] and returns [B, T] = advantages + values, both 0 where masked.

    Raises:
        ValueError: shapes that differ.
    """
    _check_same_shape(rewards=rewards, values=values, mask=mask)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    values = torch.where(mask, values, zero)
    rewards = torch.where(mask, rewards, zero)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = torch.where(mask, rewards + gamma * next_values - values, zero)
    advantages = _discounted_to_go(deltas, gamma * lam)
    advantages = torch.where(mask, advantages, zero)
    return advantages, torch.where(mask, advantages + values, zero)


def _discounted_to_go(x: Tensor, factor: float) -> Tensor:
    """y_t = x_t + factor y_{t+1} along the last dimension."""
    running = torch.zeros_like(x[:, 0]) if x.shape[1] else x.new_zeros(x.shape[0])
    columns = []
    for t in range(x.shape[1] - 1, -1, -1):
        running = x[:, t] + factor * running
        columns.append(running)
    return torch.stack(columns[::-1], dim=1) if columns else x.clone()


def penalty_to_go(penalty: Tensor, mask: Tensor) -> Tensor:
    """Sum of the token penalties from each position to the end of its response.

    Args:
        penalty: [B, T] token penalties. mask: [B, T] bool.

    Returns:
        [B, T], 0 where masked.
    """
    _check_same_shape(penalty=penalty, mask=mask)
    active = torch.where(mask, penalty, torch.zeros_like(penalty))
    to_go = active.flip(1).cumsum(1).flip(1)
    return torch.where(mask, to_go, torch.zeros_like(to_go))


def _group_sums(rewards: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if rewards.shape != group_ids.shape or rewards.dim() != 1:
        raise ValueError(
            f"Expected rewards and group_ids of one shape [B], got {tuple(rewards.shape)} and "
            f"{tuple(group_ids.shape)}."
        )
    _, index = group_ids.unique(return_inverse=True)
    size = int(index.max()) + 1 if index.numel() else 0
    sums = torch.zeros(size, dtype=rewards.dtype, device=rewards.device)
    counts = torch.zeros_like(sums)
    sums.index_add_(0, index, rewards)
    counts.index_add_(0, index, torch.ones_like(rewards))
    return index, sums, counts


def group_advantages(rewards: Tensor, group_ids: Tensor, scale: bool = True) -> Tensor:
    """GRPO's outcome advantages (Shao et al., 2024): R minus its group's mean, over its std.

    Args:
        rewards: [B] outcome rewards. group_ids: [B] int64; responses to one prompt share an id.
        scale: divide by the group's (population) standard deviation; where all rewards of a
            group are equal, divide by 1.

    Returns:
        [B] advantages.
    """
    index, sums, counts = _group_sums(rewards, group_ids)
    centred = rewards - (sums / counts)[index]
    if not scale:
        return centred
    # Whether rewards are equal is asked of the rewards: a mean rounds, and its residue would be
    # divided by itself.
    spread = torch.zeros_like(sums).index_add_(0, index, centred.square())
    low = torch.full_like(sums, torch.inf).scatter_reduce_(0, index, rewards, "amin")
    high = torch.full_like(sums, -torch.inf).scatter_reduce_(0, index, rewards, "amax")
    std = torch.where(low == high, torch.ones_like(spread), (spread / counts).sqrt())
    return centred / std[index]


def rloo_advantages(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """REINFORCE leave-one-out (Ahmadian et al., 2024): R minus the mean of its group's others.

    Args:
        rewards: [B]. group_ids: [B] int64, every group of at least 2.

    Returns:
        [B] advantages.

    Raises:
        ValueError: a group of one has no others to compare with.
    """
    index, sums, counts = _group_sums(rewards, group_ids)
    if bool((counts < 2).any()):
        raise ValueError("Leave-one-out needs at least 2 responses in every group.")
    others = (sums[index] - rewards) / (counts[index] - 1)
    return rewards - others
