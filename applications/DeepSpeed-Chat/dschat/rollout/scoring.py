"""From sampled sequences to experience: log-probabilities, values, rewards and the penalty.

Only hidden states are kept for a whole batch. Logits of policy and reference are made from them a
chunk of positions at a time and go straight into the regulariser, so that no tensor of
batch x length x vocabulary is ever alive, whatever the regulariser.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dschat.models.output_layer import chunk_logprobs, chunk_rows
from dschat.models.policy import PolicyModel
from dschat.regularization import Penalty, PolicyRegularizer
from dschat.rollout.experience import Experience, Rollout


class Reference:
    """A frozen policy to stay near.

    Args:
        policy: its `PolicyModel` (or an engine around one).
        device: where it is evaluated.
        resting_device: where it waits in between (CPU to free GPU memory); None: it stays.
    """

    def __init__(
        self, policy: PolicyModel, device: torch.device, resting_device: torch.device | None = None
    ) -> None:
        self.policy = policy.eval().requires_grad_(False)
        self.device = device
        self.resting_device = resting_device
        self.policy.to(resting_device or device)

    @contextmanager
    def on_device(self) -> Iterator[PolicyModel]:
        """The policy on its device, for one scoring."""
        if self.resting_device is None:
            yield self.policy
            return
        self.policy.to(self.device)
        try:
            yield self.policy
        finally:
            self.policy.to(self.resting_device)


@dataclass(frozen=True)
class TokenScores:
    """Per active position of one micro-batch: [n] each, float32."""

    logprobs: Tensor
    reference_logprobs: Tensor
    token_penalty: Tensor
    divergence: Tensor


class _MeanOfMetrics:
    """Averages regularisers' metrics over chunks, weighted by their positions."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0

    def add(self, metrics: dict[str, float], positions: int) -> None:
        for name, value in metrics.items():
            self.sums[name] += value * positions
        self.count += positions


class PenaltyScorer:
    """Runs a regulariser over the active positions of a batch of rollouts.

    Args:
        regularizer: any `PolicyRegularizer`; one with `collect_support` gets a first pass.
        references: one or more frozen policies.
        temperature: of sampling; policy and references are tempered alike.
        union: takes the union of a support over ranks: (ids, vocabulary size) -> ids.
    """

    def __init__(
        self,
        regularizer: PolicyRegularizer,
        references: Sequence[Reference],
        temperature: float,
        union: Callable[[Tensor, int], Tensor] = lambda ids, size: ids,
    ) -> None:
        self.regularizer = regularizer
        self.references = references
        self.temperature = temperature
        self.union = union

    @torch.no_grad()
    def __call__(
        self, actor: Any, rollouts: Sequence[Rollout]
    ) -> tuple[list[TokenScores], dict[str, float], int]:
        """Score one generation batch's micro-batches.

        Args:
            actor: the actor's engine or `PolicyModel`, in eval mode.

        Returns:
            Scores per micro-batch, the regulariser's metrics as sums over active positions, and
            the number of those positions (all of this rank).
        """
        policy: PolicyModel = actor.module if hasattr(actor, "module") else actor
        with ExitStack() as stack:
            references = [stack.enter_context(r.on_device()) for r in self.references]
            hidden = [actor(*r.model_inputs(), hidden_only=True) for r in rollouts]
            hidden_references = [
                [reference(*r.model_inputs(), hidden_only=True) for r in rollouts]
                for reference in references
            ]
            for module in (policy, *references):
                stack.enter_context(module.output_layer.gathered())
            chunks = _Chunks(policy, references, hidden, hidden_references, self.temperature)
            support = self._support(chunks, rollouts)
            return self._penalties(chunks, rollouts, support)

    def _support(self, chunks: _Chunks, rollouts: Sequence[Rollout]) -> Tensor | None:
        """First pass: the tokens that take part, over all positions of all ranks."""
        collect = getattr(self.regularizer, "collect_support", None)
        if collect is None:
            return None
        support: Tensor | None = None
        for i, rollout in enumerate(rollouts):
            # All next-token ids count, those after the end of a response included: once.
            token_ids = rollout.actions.flatten()
            for _, policy_logits, reference_logits in chunks.of(i):
                support = collect(policy_logits, reference_logits, token_ids, support)
                token_ids = token_ids[:0]
        if support is None:
            support = torch.empty(0, dtype=torch.long, device=chunks.hidden[0].device)
        return self.union(support, chunks.vocabulary_size)

    def _penalties(
        self, chunks: _Chunks, rollouts: Sequence[Rollout], support: Tensor | None
    ) -> tuple[list[TokenScores], dict[str, float], int]:
        options = {} if support is None else {"support": support}
        metrics = _MeanOfMetrics()
        scores = []
        for i, rollout in enumerate(rollouts):
            actions = rollout.actions[rollout.response_mask]
            parts: list[tuple[Tensor, Tensor, Penalty]] = []
            for rows, policy_logits, reference_logits in chunks.of(i):
                chosen = actions[rows]
                penalty = self.regularizer(policy_logits, reference_logits, chosen, **options)
                first = (
                    reference_logits if torch.is_tensor(reference_logits) else reference_logits[0]
                )
                parts.append(
                    (
                        chunk_logprobs(policy_logits, chosen, 1.0)[0],
                        chunk_logprobs(first, chosen, 1.0)[0],
                        penalty,
                    )
                )
                metrics.add(penalty.metrics, len(chosen))
            scores.append(_join(parts, actions.device))
        return scores, dict(metrics.sums), metrics.count


class _Chunks:
    """Tempered logits of policy and references for runs of positions, made when asked for."""

    def __init__(
        self,
        policy: PolicyModel,
        references: Sequence[PolicyModel],
        hidden: list[Tensor],
        hidden_references: list[list[Tensor]],
        temperature: float,
    ) -> None:
        self.layers = [policy.output_layer, *(r.output_layer for r in references)]
        self.hidden = hidden
        self.hidden_references = hidden_references
        self.temperature = temperature
        self.vocabulary_size = self.layers[0].vocabulary_size

    def of(self, i: int) -> Iterator[tuple[slice, Tensor, Tensor | list[Tensor]]]:
        """(rows, policy logits [m, V], reference logits [m, V] or K of them) of micro-batch i."""
        rows = chunk_rows(self.vocabulary_size, self.hidden[i].device)
        for start in range(0, len(self.hidden[i]), rows):
            part = slice(start, start + rows)
            states = [self.hidden[i], *(h[i] for h in self.hidden_references)]
            tempered = [
                _tempered(layer.logits(h[part]), self.temperature)
                for layer, h in zip(self.layers, states, strict=True)
            ]
            others = tempered[1:]
            yield part, tempered[0], others[0] if len(others) == 1 else others


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def _join(parts: list[tuple[Tensor, Tensor, Penalty]], device: torch.device) -> TokenScores:
    if not parts:
        empty = torch.empty(0, dtype=torch.float32, device=device)
        return TokenScores(empty, empty, empty, empty)
    return TokenScores(
        torch.cat([p[0] for p in parts]),
        torch.cat([p[1] for p in parts]),
        torch.cat([p[2].token for p in parts]).float(),
        torch.cat([p[2].divergence for p in parts]).float(),
    )


def to_experience(
    rollout: Rollout, tokens: TokenScores, values: Tensor, scores: Tensor
) -> Experience:
    """Put [n] scores of active positions back into [B, T] tensors, 0 elsewhere."""

    def spread(flat: Tensor) -> Tensor:
        full = torch.zeros(rollout.response_mask.shape, dtype=torch.float32, device=flat.device)
        full[rollout.response_mask] = flat
        return full

    return Experience(
        rollout=rollout,
        logprobs=spread(tokens.logprobs),
        reference_logprobs=spread(tokens.reference_logprobs),
        values=values,
        token_penalty=spread(tokens.token_penalty),
        divergence=spread(tokens.divergence),
        scores=scores,
    )
