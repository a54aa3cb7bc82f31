"""From rewards and penalties to what an update learns: advantages, and returns for a critic.

What an advantage is computed from is gathered from all ranks first, in the order of the prompts,
so that a group may lie on several ranks and in several micro-batches; every rank then
computes the same numbers and takes its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dschat.algorithms import Advantages, Responses
from dschat.algorithms.estimators import whitened
from dschat.algorithms.macro_actions import (
    fixed_macro_actions,
    macro_actions_of_lengths,
    perplexity_macro_actions,
    randomized_macro_actions,
)
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.settings.online import OnlineConfig
from dschat.settings.parts import ADVANTAGES

Segment = Callable[[list[list[int]]], list[list[int]]]
"""Token ids of several responses -> lengths of the macro actions of each."""


def penalty_rewards(
    experience: Experience, coefficient: float, penalty_clip: float | None
) -> Tensor:
    """[B, T] rewards for staying near: -coefficient * phi_t, clipped where asked, 0 if masked."""
    rewards = -coefficient * experience.token_penalty
    if penalty_clip is not None:
        rewards = rewards.clamp(-penalty_clip, penalty_clip)
    return torch.where(experience.rollout.response_mask, rewards, torch.zeros_like(rewards))


def clipped_scores(
    experience: Experience, score_clip: float, missing_eos_penalty: float | None = None
) -> Tensor:
    """[B] scores within plus or minus `score_clip` (0: not clipped), as they are learnt from.

    Args:
        missing_eos_penalty: then taken off those of responses that did not end by themselves.
    """
    ended = experience.rollout.ended
    return learnt_scores(experience.scores, ended, score_clip, missing_eos_penalty)


def learnt_scores(
    scores: Tensor, ended: Tensor, score_clip: float, missing_eos_penalty: float | None
) -> Tensor:
    """`clipped_scores` of scores [B] and whether responses ended by themselves [B]."""
    scores = scores.clamp(-score_clip, score_clip) if score_clip > 0 else scores
    if missing_eos_penalty is not None:
        scores = scores - missing_eos_penalty * (~ended).to(scores)
    return scores


@dataclass(frozen=True)
class MacroActions:
    """How tokens are grouped (`dschat.algorithms.macro_actions`); the default is plain PPO.

    Attributes:
        kind: "fixed", "randomized", "ppl" or "parsing". ngram: of fixed. repeat_times: of
            randomized.
        seed: of randomized lengths, which differ in every iteration.
        segment: of parsing: lengths of the macro actions of each of several responses' token ids.
    """

    kind: str = "fixed"
    ngram: int = 1
    repeat_times: int = 3
    seed: int = 0
    segment: Segment | None = None

    def ids(self, experience: Experience, iteration: int = 0) -> Tensor:
        """[B, T] int64, the macro action of each token, the same whatever the number of ranks."""
        mask = experience.rollout.response_mask
        if self.kind == "ppl":
            assert experience.reference_logprobs is not None
            return perplexity_macro_actions(mask, experience.reference_logprobs)
        if self.kind == "parsing":
            assert self.segment is not None
            rows = zip(experience.rollout.actions, mask, strict=True)
            return macro_actions_of_lengths(mask, self.segment([a[m].tolist() for a, m in rows]))
        if self.kind == "randomized":
            seed = self.seed * 1_000_003 + iteration
            indices = experience.rollout.indices.tolist()
            seeds = [(seed * 1_000_003 + index) % 2**63 for index in indices]
            return randomized_macro_actions(mask, self.repeat_times, seeds)
        return fixed_macro_actions(mask, self.ngram)


@dataclass(frozen=True)
class Targets:
    """Advantages of an iteration's responses, by any estimator.

    Attributes:
        advantage: the estimator (`ADVANTAGES`) with its settings.
        coefficient: of the penalty (`--kl_ctl`).
        penalty_clip: the regularizer's `reward_clip`; the published value estimators clip.
        score_clip: bound of the scores (published: 2.5); 0 for none.
        responses: of all ranks in an iteration. group_size: of them to one prompt, neighbours by
            `rollout.indices`.
        macro_actions: how tokens are grouped; used where there is a critic.
        missing_eos_penalty: see `clipped_scores`.
        whiten: whether advantages are whitened over the tokens of the iteration.
    """

    advantage: Callable[[Responses], Advantages]
    coefficient: float
    penalty_clip: float | None
    score_clip: float
    responses: int
    group_size: int
    macro_actions: MacroActions = MacroActions()
    missing_eos_penalty: float | None = None
    whiten: bool = False

    @classmethod
    def of(
        cls, config: OnlineConfig, penalty_clip: float | None, segment: Segment | None = None
    ) -> Targets:
        """Those of an online run."""
        per_rank = config.per_device_generation_batch_size * config.generation_rounds()
        return cls(
            partial(ADVANTAGES[config.estimator].load(), settings=config),
            config.penalty_coefficient,
            penalty_clip,
            config.clip_reward_value,
            per_rank * distributed.world_size(),
            config.group_size(),
            MacroActions(
                config.termination_condition,
                config.ngram,
                config.repeat_times,
                config.seed,
                segment,
            ),
            config.missing_eos_penalty,
            config.whiten_advantages,
        )

    def __call__(
        self, experiences: Sequence[Experience], iteration: int
    ) -> tuple[list[Experience], dict[str, float]]:
        """The experiences with advantages and returns; and the estimator's metrics.

        All ranks call it with their micro-batches of one iteration. The samples' weights are
        divided by what the advantages were divided by, as is the samples' control variate, which is
        taken off the advantages.
        """
        responses = self._of_all_ranks(experiences, iteration)
        found = self.advantage(responses)
        if self.whiten:
            found = whitened(found, responses.mask)
        return [_take(e, found) for e in experiences], found.metrics

    def _of_all_ranks(self, experiences: Sequence[Experience], iteration: int) -> Responses:
        device = experiences[0].scores.device
        width = max(e.rollout.response_mask.shape[1] for e in experiences)
        width = int(distributed.all_reduce(torch.tensor(width, device=device), "max"))

        def together(parts: Sequence[Tensor]) -> Tensor:
            """[B] or [B, T] of this rank's micro-batches -> all ranks' rows, by index."""
            shape = (self.responses,) if parts[0].dim() == 1 else (self.responses, width)
            whole = torch.zeros(shape, dtype=parts[0].dtype, device=device)
            for e, part in zip(experiences, parts, strict=True):
                columns = () if part.dim() == 1 else (slice(part.shape[1]),)
                whole[(e.rollout.indices, *columns)] = part
            # A row is filled by one rank and 0 on all others.
            return distributed.all_reduce(whole)

        values = ids = None
        if experiences[0].values is not None:
            with on_all_ranks():  # a parser may fail
                of_tokens = [self.macro_actions.ids(e, iteration) for e in experiences]
            ids = together(of_tokens)
            values = together([e.values for e in experiences if e.values is not None])
        clips = self.coefficient, self.penalty_clip
        of_scores = self.score_clip, self.missing_eos_penalty
        return Responses(
            scores=together([clipped_scores(e, *of_scores) for e in experiences]),
            penalties=together([penalty_rewards(e, *clips) for e in experiences]),
            mask=together([e.rollout.response_mask.long() for e in experiences]).bool(),
            groups=torch.arange(self.responses, device=device) // self.group_size,
            values=values,
            macro_actions=ids,
        )


def _take(experience: Experience, found: Advantages) -> Experience:
    """Rows of this micro-batch from those of the iteration."""
    mask, indices = experience.rollout.response_mask, experience.rollout.indices
    zero = torch.zeros((), device=mask.device)

    def mine(whole: Tensor) -> Tensor:
        return torch.where(mask, whole[indices, : mask.shape[1]].float(), zero)

    advantages = mine(found.advantages)
    control, weights = experience.sample_control, experience.sample_weights
    if control is not None:
        if found.scale is not None:
            control = control / found.scale[indices].float().unsqueeze(1)
        advantages = torch.where(mask, advantages - control, zero)
    if found.scale is not None and experience.samples is not None and weights is not None:
        weights = weights / found.scale[experience.samples.indices].float()
    return replace(
        experience,
        advantages=advantages,
        returns=None if found.returns is None else mine(found.returns),
        sample_control=None,
        sample_weights=weights,
    )
