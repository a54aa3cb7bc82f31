"""Rollouts -> experience: what policy, references, critic and reward make of sampled responses."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dschat.rewards import RewardFunction, score_responses
from dschat.rewards.base import Parts
from dschat.rollout.experience import Experience, Rollout
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.faults import Fault, agree
from dschat.scoring.scoring import PenaltyScorer, TokenScores, to_experience


class Scored(NamedTuple):
    """A generation batch, scored by the models; one entry per micro-batch.

    Attributes:
        rollouts: without the hidden states that sampling may have kept.
        tokens: log-probabilities, penalty and entropy.
        values: [B, T] the critic's; None without a critic.
        sums: the regularizer's metrics (`penalty/...`) as sums over this rank's active positions,
            and `positions`, their number.
        seconds: spent in the regularizer.
    """

    rollouts: list[Rollout]
    tokens: list[TokenScores]
    values: list[Tensor | None]
    sums: dict[str, float]
    seconds: float


class Rewards(NamedTuple):
    """A generation batch's rewards.

    Attributes:
        scores: one per response, NaN and infinity included.
        sums: over this rank's responses to which it applies, of each reward (`reward/...`), its
            square (`reward_square/...`) and 1 (`reward_count/...`); of the reward's further parts
            `reward/...` and `reward_count/...`; and `reward_responses`, of 1 for all responses.
    """

    scores: list[float]
    sums: dict[str, float]


@dataclass
class Scorer:
    """Runs actor, references, regularizer and critic over rollouts.

    Attributes:
        penalty: log-probabilities and the penalty.
    """

    penalty: PenaltyScorer

    @torch.no_grad()
    def score(self, actor: Any, critic: Any | None, rollouts: Sequence[Rollout]) -> Scored:
        """Score one generation batch; all ranks call it.

        Args:
            actor, critic: DeepSpeed engines, which are put into eval mode; no critic: None.

        Raises:
            BadStepError: (on all ranks) the penalty cannot be computed.
        """
        actor.eval()
        fault, device = None, rollouts[0].input_ids.device
        try:
            tokens, sums, positions = self.penalty(actor, rollouts)
        except ValueError as error:
            prompts = tuple(prompt for rollout in rollouts for prompt in rollout.prompts)
            fault = Fault(f"the penalty cannot be computed: {error}", distributed.rank(), prompts)
        agree(fault, device)
        values: list[Tensor | None] = [None] * len(rollouts)
        if critic is not None:
            critic.eval()
            values = [critic(*rollout.model_inputs()) for rollout in rollouts]
        return Scored(
            [replace(rollout, states=None) for rollout in rollouts],
            tokens,
            values,
            {f"penalty/{name}": value for name, value in sums.items()} | {"positions": positions},
            self.penalty.seconds,
        )


def reward_rollouts(reward: RewardFunction, rollouts: Sequence[Rollout]) -> Rewards:
    """Score the responses of one generation batch; all ranks call it.

    Raises:
        UserError: (on all ranks) the reward raised, or returned something that is no number.
    """
    return summed_rewards(*rewards_of_responses(reward, rollouts), reward.names)


def rewards_of_responses(
    reward: RewardFunction, rollouts: Sequence[Rollout]
) -> tuple[list[float], Parts]:
    """The scores, and the parts of the reward by name; see `reward_rollouts`."""
    prompts = [p for r in rollouts for p in r.prompts]
    responses = [t for r in rollouts for t in r.responses]
    examples = [e for r in rollouts for e in r.examples]
    # Who waits within a collective reward cannot be told of a failure: that rank ends, and with
    # it the others.
    with contextlib.nullcontext() if reward.collective else on_all_ranks():
        scores, parts = score_responses(reward, prompts, responses, examples, finite=False)
    if len(reward.names) == 1 and reward.names[0] not in parts:  # the only one, of weight 1
        parts = {reward.names[0]: list(scores), **parts}
    return scores, parts


def summed_rewards(scores: list[float], parts: Parts, names: Sequence[str]) -> Rewards:
    """Scores with the sums that metrics are made of; `names`: the parts that are rewards."""
    sums = {"reward_responses": float(len(scores))}
    for name, part in parts.items():
        values = [value for value in part if value is not None]
        sums[f"reward/{name}"] = float(sum(values))
        sums[f"reward_count/{name}"] = float(len(values))
        if name in names:
            sums[f"reward_square/{name}"] = float(sum(value * value for value in values))
    return Rewards(scores, sums)


def to_experiences(scored: Scored, rewards: Rewards) -> list[Experience]:
    """The experience of each micro-batch."""
    device = scored.rollouts[0].input_ids.device
    scores = torch.tensor(rewards.scores, dtype=torch.float32, device=device)
    of_batches = scores.split([len(r.prompts) for r in scored.rollouts])
    parts = zip(scored.rollouts, scored.tokens, scored.values, of_batches, strict=True)
    return [to_experience(*part) for part in parts]
