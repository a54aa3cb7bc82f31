"""Macro actions: runs of tokens that PPO values and credits together (MA-RLHF).

Source: Chai et al., "MA-RLHF: Reinforcement Learning from Human Feedback with Macro Actions", ICLR
2025. Each response has boundaries of its own. Shapes as everywhere: masks [B, T] bool, True on
response tokens, which start at column 0; `ids` [B, T] int64 number the macro actions of each row
from 0 (what stands where the mask is False is not read).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dschat.algorithms.advantages import gae

RANDOM_LENGTHS = (1, 2, 3, 5, 10)
VALUE_FUNCTIONS = ("equal", "unit", "position")


def ids_of_starts(starts: Tensor) -> Tensor:
    """ids [B, T] from the tokens [B, T] bool that begin a macro action; the first always does."""
    begins = starts.clone()
    begins[:, :1] = True
    return begins.long().cumsum(dim=1) - 1


def fixed_macro_actions(mask: Tensor, ngram: int) -> Tensor:
    """ids [B, T]: a new macro action every `ngram` tokens.

    Raises:
        ValueError: `ngram` is below 1.
    """
    if ngram < 1:
        raise ValueError(f"given ngram = {ngram}, expected at least 1")
    columns = torch.arange(mask.shape[1], device=mask.device)
    return (columns // ngram).expand(mask.shape)


def randomized_macro_actions(mask: Tensor, repeat_times: int, seeds: Sequence[int]) -> Tensor:
    """ids [B, T]: lengths from a shuffled list of 1, 2, 3, 5 and 10, each `repeat_times` times.

    What is left of a response after the list is one macro action.

    Args:
        seeds: one per row: a row's lengths depend on nothing else.

    Raises:
        ValueError: `repeat_times` is below 1, or there is not one seed per row.
    """
    if repeat_times < 1 or len(seeds) != len(mask):
        raise ValueError(
            f"given repeat_times = {repeat_times} and {len(seeds)} seeds for {len(mask)} rows, "
            "expected at least 1 and a seed per row"
        )
    lengths = torch.tensor(RANDOM_LENGTHS * repeat_times)
    starts = torch.zeros(mask.shape, dtype=torch.bool)
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        ends = lengths[torch.randperm(len(lengths), generator=generator)].cumsum(0)
        starts[row, ends[ends < mask.shape[1]]] = True
    return ids_of_starts(starts).to(mask.device)


def perplexity_macro_actions(mask: Tensor, reference_logprobs: Tensor) -> Tensor:
    """ids [B, T]: a new macro action at every token that raises the response's perplexity.

    The perplexity up to a token is exp of minus the mean log-probability so far under the
    reference; a macro action is a run over which it does not rise.

    Args:
        reference_logprobs: [B, T].
    """
    surprise = torch.where(mask, -reference_logprobs, torch.zeros_like(reference_logprobs)).double()
    count = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    mean = surprise.cumsum(dim=1) / count
    starts = torch.zeros_like(mask)
    # The mean rises where the token is above the mean before it: no exp, and no rounding of it.
    starts[:, 1:] = surprise[:, 1:] > mean[:, :-1]
    return ids_of_starts(starts)


def macro_actions_of_lengths(mask: Tensor, lengths: Sequence[Sequence[int]]) -> Tensor:
    """ids [B, T] from each row's macro actions' lengths, which add up to the row's tokens.

    Raises:
        ValueError: they do not.
    """
    tokens, given = mask.sum(dim=1).tolist(), [sum(row) for row in lengths]
    if given != tokens:
        raise ValueError(f"given macro actions of {given} tokens for rows of {tokens}")
    starts = torch.zeros(mask.shape, dtype=torch.bool)
    for row, sizes in enumerate(lengths):
        ends = torch.tensor(sizes[:-1], dtype=torch.long).cumsum(0)
        starts[row, ends] = True
    return ids_of_starts(starts).to(mask.device)


def macro_gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    ids: Tensor,
    gamma: float,
    lam: float,
    value_function: str = "equal",
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over macro actions, shared by their tokens.

    A macro action's reward is the sum of its tokens' rewards; its value a weighted mean of its
    tokens' values. With one token each it is `gae`, exactly.

    Args:
        rewards, values: [B, T]. ids: [B, T]. gamma, lam: per macro action.
        value_function: weights of a macro action's tokens i = 0, 1, ...: "equal"; "unit": the last
            token's value alone; "position": 1 / (i + 1).

    Returns:
        advantages [B, T] and returns [B, T] (of the token's macro action), 0 where masked.

    Raises:
        ValueError: an unknown value function.
    """
    if value_function not in VALUE_FUNCTIONS:
        raise ValueError(
            f"given the value function {value_function!r}, expected one of "
            f"{', '.join(VALUE_FUNCTIONS)}"
        )
    weights = _token_weights(mask, ids, value_function).to(values)
    place = torch.where(mask, ids, torch.zeros_like(ids))

    def summed(x: Tensor) -> Tensor:
        x = torch.where(mask, x, torch.zeros_like(x))
        return torch.zeros_like(x).scatter_add_(1, place, x)

    total = summed(weights)
    macro_values = summed(weights * torch.where(mask, values, torch.zeros_like(values)))
    exists = total > 0
    macro_values = macro_values / torch.where(exists, total, torch.ones_like(total))
    advantages, returns = gae(summed(rewards), macro_values, exists, gamma, lam)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    return (
        torch.where(mask, advantages.gather(1, place), zero),
        torch.where(mask, returns.gather(1, place), zero),
    )


def _token_weights(mask: Tensor, ids: Tensor, value_function: str) -> Tensor:
    """[B, T] weight of each token within its macro action, not normalised."""
    if value_function == "equal":
        return mask.float()
    if value_function == "unit":
        following = torch.cat([ids[:, 1:], ids[:, -1:] + 1], dim=1)
        goes_on = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        return (mask & ~(goes_on & (following == ids))).float()
    columns = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    begins = torch.ones_like(mask)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    first = torch.where(begins, columns, torch.zeros_like(columns)).cummax(dim=1).values
    return torch.where(mask, 1 / (columns - first + 1), torch.zeros((), device=mask.device))
