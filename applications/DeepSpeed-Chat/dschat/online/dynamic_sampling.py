"""DAPO's dynamic sampling (Yu et al., 2025): groups of equal rewards are left out of an iteration.

Batches of prompts are sampled and rewarded one after the other, until there are enough groups whose
rewards differ. The first of these, in the order of their prompts, make the iteration, whatever rank
drew them: what is chosen does not depend on the number of ranks, and nothing is kept for later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dschat.data.prompts import rank_share
from dschat.rewards import RewardFunction
from dschat.rewards.base import Parts
from dschat.rollout.experience import Rollout
from dschat.runtime import distributed
from dschat.scoring.arrangement import regrouped_rollouts
from dschat.scoring.scorer import Rewards, rewards_of_responses, summed_rewards
from dschat.scoring.targets import Targets, learnt_scores


@dataclass(frozen=True)
class Drawn:
    """The responses of an iteration, chosen.

    Attributes:
        rollouts: of this rank, by generation batch, in micro-batches.
        scores: of all ranks' responses, by index. parts: the same of each part of the reward.
        names: of the parts that are rewards.
        tries: batches of prompts that were sampled.
        metrics: for the log, the same on all ranks.
    """

    rollouts: list[list[Rollout]]
    scores: list[float]
    parts: Parts
    names: tuple[str, ...]
    tries: int
    metrics: dict[str, float]

    def rewards(self, rollouts: Sequence[Rollout]) -> Rewards:
        """Those of some of this rank's rollouts, which were rewarded when they were drawn."""
        rows = [index for r in rollouts for index in r.indices.tolist()]
        parts = {name: [values[i] for i in rows] for name, values in self.parts.items()}
        return summed_rewards([self.scores[i] for i in rows], parts, self.names)


@dataclass(frozen=True)
class _Row:
    """A response that was drawn: its score, what is learnt from it, and the reward's parts."""

    score: float
    learnt: float
    parts: dict[str, float | None]


def draw_groups_with_spread(
    sample: Callable[[int], list[Rollout]],
    reward: RewardFunction,
    targets: Targets,
    tries: int,
    rounds: int,
    micro_batch: int,
    pad_token_id: int,
) -> Drawn:
    """Sample until an iteration's groups have rewards that differ; all ranks call it.

    Args:
        sample: this rank's rollouts of the n-th batch of an iteration's prompts, from 0.
        targets: say how many responses an iteration has, in groups of what size, and how scores are
            clipped before they are compared.
        tries: batches at most; the iteration is then filled up with the first of the other groups.
        rounds: generation batches of an iteration.
    """
    groups = targets.responses // targets.group_size
    drawn: list[list[Rollout]] = []
    rows: list[dict[int, _Row]] = []
    kept: list[tuple[int, int]] = []  # (batch, group)
    others: list[tuple[int, int]] = []
    while len(kept) < groups and len(drawn) < tries:
        rollouts = sample(len(drawn))
        found = _rows_of_all_ranks(rollouts, reward, targets)
        for group in range(groups):
            first, *rest = (found[i].learnt for i in _members(group, targets.group_size))
            # What is not finite differs from all: it is found and reported later.
            differs = first != first or any(value != first for value in rest)
            (kept if differs else others).append((len(drawn), group))
        drawn.append(rollouts)
        rows.append(found)
    chosen = [*kept, *others][:groups]
    numbers = {
        (batch, old): place * targets.group_size + j
        for place, (batch, group) in enumerate(chosen)
        for j, old in enumerate(_members(group, targets.group_size))
    }
    by_index = {new: rows[batch][old] for (batch, old), new in numbers.items()}
    ordered = [by_index[i] for i in range(targets.responses)]
    every = [row.score for found in rows for row in found.values()]
    return Drawn(
        _spread_over_ranks(drawn, numbers, targets.responses // rounds, micro_batch, pad_token_id),
        [row.score for row in ordered],
        {name: [row.parts[name] for row in ordered] for name in ordered[0].parts},
        reward.names,
        len(drawn),
        {
            "dynamic_sampling/batches": float(len(drawn)),
            "dynamic_sampling/kept": len(kept) / (len(kept) + len(others)),
            "dynamic_sampling/reward": sum(every) / len(every),
        },
    )


def _members(group: int, size: int) -> range:
    return range(group * size, (group + 1) * size)


def _rows_of_all_ranks(
    rollouts: Sequence[Rollout], reward: RewardFunction, targets: Targets
) -> dict[int, _Row]:
    """By index within the batch."""
    scores, parts = rewards_of_responses(reward, rollouts)
    ended = torch.cat([r.ended for r in rollouts]).cpu()
    learnt = learnt_scores(
        torch.tensor(scores), ended, targets.score_clip, targets.missing_eos_penalty
    ).tolist()
    indices = [index for r in rollouts for index in r.indices.tolist()]
    own = {
        index: _Row(scores[i], learnt[i], {name: values[i] for name, values in parts.items()})
        for i, index in enumerate(indices)
    }
    found: dict[int, _Row] = {}
    for of_rank in distributed.gather_objects(own):
        found |= of_rank
    return dict(sorted(found.items()))


def _spread_over_ranks(
    drawn: Sequence[Sequence[Rollout]],
    numbers: dict[tuple[int, int], int],
    batch_size: int,
    micro_batch: int,
    pad_token_id: int,
) -> list[list[Rollout]]:
    """This rank's share of the chosen rows, by generation batch.

    Args:
        numbers: (batch, index in it) -> index in the iteration, of the chosen.
    """
    device = drawn[0][0].input_ids.device
    local = [r for rollouts in drawn for r in rollouts]
    places = [(n, i) for n, batch in enumerate(drawn) for r in batch for i in r.indices.tolist()]
    mine = [row for row, place in enumerate(places) if place in numbers]
    given = None
    if mine:
        (given,) = regrouped_rollouts(local, [mine], pad_token_id)
        new = torch.tensor([numbers[places[row]] for row in mine])
        given = _moved(replace(given, indices=new), torch.device("cpu"))
    every = [r for r in distributed.gather_objects(given) if r is not None]
    row_of = {i: row for row, i in enumerate(i for r in every for i in r.indices.tolist())}
    share = rank_share(batch_size, distributed.rank(), distributed.world_size(), micro_batch)
    found = []
    for start in range(0, len(row_of), batch_size):
        wanted = [row_of[start + i] for i in share]
        batches = [wanted[i : i + micro_batch] for i in range(0, len(wanted), micro_batch)]
        rollouts = regrouped_rollouts(every, batches, pad_token_id)
        found.append([_moved(r, device) for r in rollouts])
    return found


def _moved(rollout: Rollout, device: torch.device) -> Rollout:
    values = {f.name: getattr(rollout, f.name) for f in fields(rollout)}
    tensors: dict[str, Any] = {n: v.to(device) for n, v in values.items() if isinstance(v, Tensor)}
    return replace(rollout, **tensors)
