"""From scores and penalties to advantages and returns with a critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dschat.algorithms.macro_actions import (
    fixed_macro_actions,
    macro_actions_of_lengths,
    macro_gae,
    perplexity_macro_actions,
    randomized_macro_actions,
)
from dschat.rollout.experience import Experience


def penalty_rewards(
    experience: Experience, coefficient: float, penalty_clip: float | None
) -> Tensor:
    """[B, T] rewards for staying near: -coefficient * phi_t, clipped where asked, 0 if masked."""
    rewards = -coefficient * experience.token_penalty
    if penalty_clip is not None:
        rewards = rewards.clamp(-penalty_clip, penalty_clip)
    return torch.where(experience.rollout.response_mask, rewards, torch.zeros_like(rewards))


def clipped_scores(experience: Experience, score_clip: float) -> Tensor:
    """[B] scores within plus or minus `score_clip`; 0 for no clipping."""
    scores = experience.scores
    return scores.clamp(-score_clip, score_clip) if score_clip > 0 else scores


def token_rewards(
    experience: Experience, coefficient: float, penalty_clip: float | None, score_clip: float
) -> Tensor:
    """[B, T] rewards: -coefficient * phi_t at every token, plus the score at the last.

    Args:
        coefficient: of the penalty (`--kl_ctl`).
        penalty_clip: the regulariser's `reward_clip`; the published value estimators clip.
        score_clip: bound of the score (published: 2.5); 0 for none.
    """
    mask = experience.rollout.response_mask
    rewards = penalty_rewards(experience, coefficient, penalty_clip)
    last = mask.sum(dim=1, keepdim=True) - 1
    terminal = clipped_scores(experience, score_clip).unsqueeze(1)
    columns = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
    return rewards + torch.where(columns == last, terminal, torch.zeros_like(terminal))


Segment = Callable[[list[list[int]]], list[list[int]]]
"""Token ids of several responses -> lengths of the macro actions of each."""


@dataclass(frozen=True)
class MacroActions:
    """How tokens are grouped (`dschat.algorithms.macro_actions`); the default is plain PPO.

    Attributes:
        kind: "fixed", "randomized", "ppl" or "parsing". ngram: of fixed. repeat_times: of
            randomized.
        value_function: "equal", "unit", "position" or "first".
        seed: of randomized lengths; another one for every iteration.
        segment: of parsing: lengths of the macro actions of each of several responses' token ids.
    """

    kind: str = "fixed"
    ngram: int = 1
    repeat_times: int = 3
    value_function: str = "equal"
    seed: int = 0
    segment: Segment | None = None

    def ids(self, experience: Experience) -> Tensor:
        """[B, T] int64, the macro action of each token, the same whatever the number of ranks."""
        mask = experience.rollout.response_mask
        if self.kind == "ppl":
            return perplexity_macro_actions(mask, experience.reference_logprobs)
        if self.kind == "parsing":
            assert self.segment is not None
            rows = zip(experience.rollout.actions, mask, strict=True)
            return macro_actions_of_lengths(mask, self.segment([a[m].tolist() for a, m in rows]))
        if self.kind == "randomized":
            places = experience.rollout.places.tolist()
            seeds = [(self.seed * 1_000_003 + place) % 2**63 for place in places]
            return randomized_macro_actions(mask, self.repeat_times, seeds)
        return fixed_macro_actions(mask, self.ngram)


def with_targets(
    experience: Experience,
    coefficient: float,
    penalty_clip: float | None,
    gamma: float,
    lam: float,
    score_clip: float,
    macro: MacroActions = MacroActions(),
) -> Experience:
    """The experience with GAE's advantages and returns; see `token_rewards` and `macro_gae`."""
    rewards = token_rewards(experience, coefficient, penalty_clip, score_clip)
    mask = experience.rollout.response_mask
    assert experience.values is not None
    found = macro_gae(
        rewards,
        experience.values,
        mask,
        macro.ids(experience),
        gamma,
        lam,
        macro.value_function,
    )
    return experience.with_advantages(*found)
