"""Macro actions: runs of tokens that PPO values and credits together (MA-RLHF).

Source: Chai et al., "MA-RLHF: Reinforcement Learning from Human Feedback with Macro Actions", ICLR
2025; their code is github.com/ernie-research/MA-RLHF (commit 807551d), in
applications/DeepSpeed-Chat/dschat/rlhf/ppo_trainer.py. Where this departs from it:
- each response has boundaries of its own; there the batch has those of its first row;
- a macro action's reward is the sum of its tokens' rewards, as in the paper; there it is their mean
  by `--value_function`, and so that the score is not divided, the last token of the padded batch is
  always a macro action of its own. Here it is so under `perplexity_macro_actions` alone.

Shapes as everywhere: masks [B, T] bool, True on
response tokens, which start at column 0; `ids` [B, T] int64 number the macro actions of each row
from 0 (what stands where the mask is False is not read).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dschat.algorithms.advantages import gae

RANDOM_LENGTHS = (1, 2, 3, 5, 10)
VALUE_FUNCTIONS = ("equal", "unit", "position", "first")


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
    """ids [B, T]: a new macro action at every token whose successor is less likely than itself.

    As `ppl_selection` of the published code: the perplexities of neighbouring tokens under the
    reference are compared, not those of the text so far, and the macro action begins at the token
    before the rise. The last token is one of its own.

    Args:
        reference_logprobs: [B, T] log-probability of each token given those before it.
    """
    starts = torch.zeros_like(mask)
    following = mask[:, 1:]
    starts[:, :-1] = following & (reference_logprobs[:, 1:] < reference_logprobs[:, :-1])
    starts |= torch.arange(mask.shape[1], device=mask.device) == mask.sum(dim=1, keepdim=True) - 1
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
    tokens' values, i.e. of the states before them. With one token each it is `gae`, exactly.

    Only the state before the first token is known before the macro action is chosen. The published
    weights also take in states that its own tokens lead to, so that the baseline depends on what it
    judges and the gradient is biased, the more the worse the critic is. With "first", lam = 1 and
    boundaries that do not depend on the tokens (fixed, randomized) it is unbiased with any critic.

    Args:
        rewards, values: [B, T]. ids: [B, T]. gamma, lam: per macro action.
        value_function: weights of a macro action's tokens i = 0, 1, ...: "equal"; "unit": the last
            token's value alone; "position": 1 / (i + 1); "first" (not published): the first
            token's value alone.

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
    begins = torch.ones_like(mask)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    if value_function == "first":
        return (mask & begins).float()
    columns = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    first = torch.where(begins, columns, torch.zeros_like(columns)).cummax(dim=1).values
    return torch.where(mask, 1 / (columns - first + 1), torch.zeros((), device=mask.device))
