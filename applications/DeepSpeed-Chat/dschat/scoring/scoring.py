"""From sampled sequences to experience: log-probabilities, values, rewards and the penalty.

Only hidden states are kept for a whole batch. Logits of policy and reference are made from them a
chunk of positions at a time and go straight into the regularizer, so that no tensor of
batch x length x vocabulary is ever alive, whatever the regularizer.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dschat.models.output_layer import chunk_entropy, chunk_logprobs
from dschat.models.policy import PolicyModel
from dschat.models.references import FrozenPolicy
from dschat.regularization import MultiReference, Penalty, PolicyRegularizer, with_defaults
from dschat.regularization.base import Candidates
from dschat.rollout.experience import Experience, Rollout
from dschat.scoring.chunks import Chunks, ReferencePass


@dataclass(frozen=True)
class TokenScores:
    """Per active position of one micro-batch: [n] each, float32.

    Without a reference there are no `reference_logprobs` and no `divergence`. `candidates`: of the
    regularizers that have a term in the loss.
    """

    logprobs: Tensor
    reference_logprobs: Tensor | None
    token_penalty: Tensor
    divergence: Tensor | None
    entropy: Tensor
    candidates: Candidates | None = None


class _MeanOfMetrics:
    """Averages regularizers' metrics over chunks, weighted by their positions."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0

    def add(self, metrics: dict[str, float], positions: int) -> None:
        for name, value in metrics.items():
            self.sums[name] += value * positions
        self.count += positions


@dataclass(frozen=True)
class _Part:
    """What one chunk of positions gave: [m] log-probabilities, the penalty, [m] entropies."""

    logprobs: Tensor
    reference_logprobs: Tensor
    penalty: Penalty
    entropy: Tensor


class PenaltyScorer:
    """Runs a regularizer over the active positions of a batch of rollouts.

    Several references under `MultiReference` are asked one after the other, each on the device only
    while its own divergence is computed; a regularizer with `needs_all_references` sees them
    together.

    Args:
        regularizer: any `PolicyRegularizer`; one with `uses_support` gets a first pass.
        references: frozen policies, all with the policy's vocabulary; without any no penalty is
            computed, only log-probabilities and entropies.
        temperature: of sampling; policy and references are tempered alike.
        union: takes the union of a support over ranks: (ids, vocabulary size) -> ids.

    Attributes:
        seconds: that the last call spent in the regularizer, without the models' passes and logits.
    """

    def __init__(
        self,
        regularizer: PolicyRegularizer,
        references: Sequence[FrozenPolicy],
        temperature: float,
        union: Callable[[Tensor, int], Tensor] = lambda ids, size: ids,
    ) -> None:
        self.regularizer = with_defaults(regularizer)
        self.references = references
        self.temperature = temperature
        self.union = union
        self.seconds = 0.0

    @torch.no_grad()
    def __call__(
        self, actor: Any, rollouts: Sequence[Rollout]
    ) -> tuple[list[TokenScores], dict[str, float], int]:
        """Score one generation batch's micro-batches.

        Args:
            actor: the actor's engine or `PolicyModel`, in eval mode.
            rollouts: with `states` where sampling kept them: the actor is not asked again.

        Returns:
            Scores per micro-batch, the regularizer's metrics as sums over active positions, and
            the number of those positions (all of this rank).
        """
        self.seconds = 0.0
        policy: PolicyModel = actor.module if hasattr(actor, "module") else actor
        # Made before any regularizer could fail on one rank: ranks may have to agree on them.
        plans = [policy.plan(*r.model_inputs()) for r in rollouts]
        hidden = [
            actor(*r.model_inputs(), hidden_only=True, plan=plan) if r.states is None else r.states
            for r, plan in zip(rollouts, plans, strict=True)
        ]
        actions = [r.actions[r.response_mask] for r in rollouts]
        # A reference that is given twice is asked once.
        pass_of = {
            id(r): ReferencePass(r, rollouts, plans, self.temperature) for r in self.references
        }
        passes = [pass_of[id(r)] for r in self.references]
        with policy.output_layer.gathered():
            chunks = Chunks(policy.output_layer, hidden, self.temperature)
            if not self.references:
                return [_without_reference(chunks, i, a) for i, a in enumerate(actions)], {}, 0
            if self.regularizer.needs_all_references:
                found = self._together(chunks, passes, rollouts, actions)
            else:
                found = self._one_by_one(chunks, passes, rollouts, actions)
        metrics = _MeanOfMetrics()
        for part in (part for parts in found for part in parts):
            metrics.add(part.penalty.metrics, len(part.logprobs))
        device = rollouts[0].input_ids.device
        return [_join(parts, device) for parts in found], dict(metrics.sums), metrics.count

    def _one_by_one(
        self,
        chunks: Chunks,
        passes: list[ReferencePass],
        rollouts: Sequence[Rollout],
        actions: list[Tensor],
    ) -> list[list[_Part]]:
        """Parts by micro-batch, the references' penalties combined."""
        several = self.regularizer if isinstance(self.regularizer, MultiReference) else None
        single = several.regularizer if several else self.regularizer
        with ExitStack() as stack:
            if len(passes) == 1:  # no other waits for its room between the two passes
                stack.enter_context(passes[0].open())
            options = self._support(single, chunks, passes, rollouts)
            timed = partial(self._timed, single)
            by_reference = []
            for k, reference_pass in enumerate(passes):
                with reference_pass.open() as other:
                    by_reference.append(
                        [
                            _parts(timed, chunks, other, i, a, options, k == 0)
                            for i, a in enumerate(actions)
                        ]
                    )
                if reference_pass not in passes[k + 1 :]:
                    reference_pass.hidden = None
        if several is None:
            return by_reference[0]
        return [
            [
                _Part(
                    p[0].logprobs,
                    p[0].reference_logprobs,
                    several.combine([q.penalty for q in p]),
                    p[0].entropy,
                )
                for p in zip(*(parts[i] for parts in by_reference), strict=True)
            ]
            for i in range(len(rollouts))
        ]

    def _support(
        self,
        single: PolicyRegularizer,
        chunks: Chunks,
        passes: list[ReferencePass],
        rollouts: Sequence[Rollout],
    ) -> dict[str, Tensor]:
        """First pass: the tokens that take part, over all positions of all references and ranks."""
        if not single.uses_support:
            return {}
        support: Tensor | None = None
        for reference_pass in passes:
            with reference_pass.open() as other:
                for i, rollout in enumerate(rollouts):
                    # All next-token ids count, those after the end of a response included: once.
                    token_ids = rollout.actions.flatten()
                    for part in chunks.parts(i):
                        logits = chunks.logits(i, part), other.logits(i, part)
                        collect = single.collect_support
                        support = self._timed(collect, *logits, token_ids, support)
                        token_ids = token_ids[:0]
        if support is None:
            support = torch.empty(0, dtype=torch.long, device=rollouts[0].input_ids.device)
        return {"support": self.union(support, chunks.layer.vocabulary_size)}

    def _together(
        self,
        chunks: Chunks,
        passes: list[ReferencePass],
        rollouts: Sequence[Rollout],
        actions: list[Tensor],
    ) -> list[list[_Part]]:
        """Parts by micro-batch, from all references' logits at once."""
        found = []
        with ExitStack() as stack:
            others = [stack.enter_context(v.open()) for v in passes]
            for i, (rollout, chosen) in enumerate(zip(rollouts, actions, strict=True)):
                logprobs = torch.stack([o.logprobs(i, chosen) for o in others], dim=1)
                so_far = before_each_token(logprobs, rollout.response_mask)
                parts = []
                for part in chunks.parts(i):
                    logits = chunks.logits(i, part)
                    penalty = self._timed(
                        self.regularizer,
                        logits,
                        [o.logits(i, part) for o in others],
                        chosen[part],
                        prefix_logprobs=so_far[part],
                    )
                    own, log_normalizer = chunk_logprobs(logits, chosen[part])
                    entropy = chunk_entropy(logits, log_normalizer)
                    parts.append(_Part(own, logprobs[part, 0], penalty, entropy))
                found.append(parts)
        return found

    def _timed(self, function: Callable[..., Any], logits: Tensor, *args: Any, **named: Any) -> Any:
        """`function(logits, ...)`, its time added to `seconds`."""
        _wait_for(logits.device)
        at = time.perf_counter()
        result = function(logits, *args, **named)
        _wait_for(logits.device)
        self.seconds += time.perf_counter() - at
        return result


def _wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given: it is done in the background."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def before_each_token(values: Tensor, mask: Tensor) -> Tensor:
    """Sums of per-token values over the response's earlier tokens.

    Args:
        values: [n, K] at the active positions in row order. mask: [B, T] bool with n True.

    Returns:
        [n, K] float64; 0 at each response's first token.
    """
    full = torch.zeros(*mask.shape, values.shape[1], dtype=torch.float64, device=values.device)
    full[mask] = values.double()
    return (full.cumsum(dim=1) - full)[mask]


def _parts(
    regularizer: Any,
    chunks: Chunks,
    reference: Chunks,
    i: int,
    actions: Tensor,
    options: dict[str, Tensor],
    with_entropy: bool,
) -> list[_Part]:
    """One reference's penalties on micro-batch i, chunk by chunk, and the policy's entropy."""
    found = []
    for part in chunks.parts(i):
        logits, reference_logits = chunks.logits(i, part), reference.logits(i, part)
        chosen = actions[part]
        own, log_normalizer = chunk_logprobs(logits, chosen)
        entropy = chunk_entropy(logits, log_normalizer) if with_entropy else own[:0]
        found.append(
            _Part(
                own,
                chunk_logprobs(reference_logits, chosen)[0],
                regularizer(logits, reference_logits, chosen, **options),
                entropy,
            )
        )
    return found


def _without_reference(chunks: Chunks, i: int, actions: Tensor) -> TokenScores:
    """Log-probabilities and entropies of micro-batch i; the penalty is 0."""
    logprobs, entropies = [], []
    for part in chunks.parts(i):
        logits = chunks.logits(i, part)
        own, log_normalizer = chunk_logprobs(logits, actions[part])
        logprobs.append(own)
        entropies.append(chunk_entropy(logits, log_normalizer))
    empty = torch.empty(0, dtype=torch.float32, device=actions.device)
    own = torch.cat([empty, *logprobs])
    entropy = torch.cat([empty, *entropies])
    return TokenScores(own, None, torch.zeros_like(own), None, entropy)


def _join(parts: list[_Part], device: torch.device) -> TokenScores:
    if not parts:
        empty = torch.empty(0, dtype=torch.float32, device=device)
        return TokenScores(empty, empty, empty, empty, empty)
    return TokenScores(
        torch.cat([p.logprobs for p in parts]),
        torch.cat([p.reference_logprobs for p in parts]),
        torch.cat([p.penalty.token for p in parts]).float(),
        torch.cat([p.penalty.divergence for p in parts]).float(),
        torch.cat([p.entropy for p in parts]),
        _joined_candidates([p.penalty.candidates for p in parts]),
    )


def _joined_candidates(parts: Sequence[Candidates | None]) -> Candidates | None:
    given = [part for part in parts if part is not None]
    if not given:
        return None
    return Candidates(
        torch.cat([part.tokens for part in given]),
        torch.cat([part.reference_logprobs for part in given]),
    )


def to_experience(
    rollout: Rollout, tokens: TokenScores, values: Tensor | None, scores: Tensor
) -> Experience:
    """Put [n] scores of active positions back into [B, T] tensors, 0 elsewhere."""

    mask = rollout.response_mask

    def spread(flat: Tensor) -> Tensor:
        full = torch.zeros(*mask.shape, *flat.shape[1:], dtype=flat.dtype, device=flat.device)
        full[mask] = flat
        return full

    def spread_if(flat: Tensor | None) -> Tensor | None:
        return None if flat is None else spread(flat)

    found = tokens.candidates

    return Experience(
        rollout=rollout,
        logprobs=spread(tokens.logprobs),
        reference_logprobs=spread_if(tokens.reference_logprobs),
        values=values,
        token_penalty=spread(tokens.token_penalty),
        divergence=spread_if(tokens.divergence),
        scores=scores,
        entropy=spread(tokens.entropy),
        candidates=None if found is None else spread(found.tokens),
        candidate_logprobs=None if found is None else spread(found.reference_logprobs),
    )
