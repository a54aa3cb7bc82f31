"""From rewards to advantages: GAE for PPO, group baselines for GRPO and RLOO."""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 0.01
"""Least divisor of `reward_scale`: no prompt weighs more than 100 times one whose rewards have a
standard deviation of 1. Rewards on a scale of 1 lie far above, rewards of some 0.05 still do."""


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
    advantages = discounted_to_go(deltas, gamma * lam)
    advantages = torch.where(mask, advantages, zero)
    return advantages, torch.where(mask, advantages + values, zero)


def discounted_to_go(x: Tensor, factor: float) -> Tensor:
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


def masked_moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of values [B, T] where mask [B, T] holds.

    The variance has 1e-8 added to it, as that of TRL's and verl's whitening. 0 and 1e-4 where
    nothing is active.
    """
    _check_same_shape(values=values, mask=mask)
    active = values[mask].double()
    if not len(active):
        return active.sum(), torch.full_like(active.sum(), 1e-4)
    return active.mean(), (active.var(correction=0) + 1e-8).sqrt()


def _group_index(values: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """(place of each row's group [B], rows of each group [G]) of values [B] or [B, T]."""
    if group_ids.dim() != 1 or values.shape[:1] != group_ids.shape or values.dim() not in (1, 2):
        raise ValueError(
            f"Expected values [B] or [B, T] and group_ids [B], got {tuple(values.shape)} and "
            f"{tuple(group_ids.shape)}."
        )
    _, index, counts = group_ids.unique(return_inverse=True, return_counts=True)
    return index, counts


def _group_sums(values: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """[G] or [G, T] sums over the rows of each group."""
    sums = torch.zeros(len(counts), *values.shape[1:], dtype=values.dtype, device=values.device)
    return sums.index_add_(0, index, values)


def group_centred(values: Tensor, group_ids: Tensor, leave_one_out: bool = False) -> Tensor:
    """Values minus a baseline from their group, per column.

    The baseline is the group's mean (GRPO), or the mean of the group's *other* rows (RLOO). Used on
    rewards and on penalties-to-go alike. The group's mean contains the row's own value, which
    shrinks the policy gradient of whatever is centred by 1 - 1/(group size): centring both the
    same way keeps the coefficient between them what it says.

    Args:
        values: [B] or [B, T]; in a column, a response that has ended counts with its 0.
        group_ids: [B] int64; responses to one prompt share an id.
        leave_one_out: the mean of the others.

    Returns:
        The shape of `values`.

    Raises:
        ValueError: shapes that do not fit, or leave-one-out in a group of one.
    """
    index, counts = _group_index(values, group_ids)
    sums = _group_sums(values, index, counts)[index]
    sizes = counts[index].to(values).reshape(-1, *[1] * (values.dim() - 1))
    if not leave_one_out:
        return values - sums / sizes
    if bool((counts < 2).any()):
        raise ValueError("Leave-one-out needs at least 2 responses in every group.")
    return values - (sums - values) / (sizes - 1)


def group_std(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """Each row's (population) standard deviation of its group, exactly 0 where all are equal.

    Args:
        rewards: [B]. group_ids: [B] int64.

    Returns:
        [B].
    """
    index, counts = _group_index(rewards, group_ids)
    centred = group_centred(rewards, group_ids)
    spread = _group_sums(centred.square(), index, counts) / counts.to(rewards)
    # Whether rewards are equal is asked of the rewards: a mean rounds, and leaves a residue.
    low = torch.full_like(spread, torch.inf).scatter_reduce_(0, index, rewards, "amin")
    high = torch.full_like(spread, -torch.inf).scatter_reduce_(0, index, rewards, "amax")
    return torch.where(low == high, torch.zeros_like(spread), spread.sqrt())[index]


def reward_scale(std: Tensor) -> Tensor:
    """What a group's advantages are divided by: its std, but no less than `STD_FLOOR`.

    Penalties are divided by it as well, so a tiny std would make of a group with next to no signal
    the one that weighs most, by its penalties. Below the floor the divisor goes, on a straight
    line, back to the 1 of a group of equal rewards: near the floor rewards are still scaled, near 0
    they are not. (TRL's std + 1e-4 divides rewards alone; here it would multiply the penalties of
    equal rewards by 10,000.)

    Args:
        std: [B] at least 0, see `group_std`.

    Returns:
        [B] between `STD_FLOOR` and 1 where std is at most 1; continuous.
    """
    return torch.where(std < STD_FLOOR, 1 - (1 - STD_FLOOR) * (std / STD_FLOOR), std)
