"""Logits of policy and references, a run of positions at a time, made from kept hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dschat.models.key_values import PromptPlan
from dschat.models.output_layer import OutputLayer, chunk_logprobs, chunk_rows, temper_
from dschat.models.policy import PolicyModel
from dschat.models.references import FrozenPolicy, WithoutAdapters
from dschat.rollout.experience import Rollout


class Chunks:
    """Tempered logits of one model for runs of positions, made when asked for.

    Args:
        layer: the model's output layer, its weights whole.
        hidden: per micro-batch the states [n, H] that predict its n active tokens.
        temperature: of sampling.
    """

    def __init__(self, layer: OutputLayer, hidden: list[Tensor], temperature: float) -> None:
        self.layer, self.hidden, self.temperature = layer, hidden, temperature

    def parts(self, i: int) -> Iterator[slice]:
        """The runs of positions of micro-batch i; none where it has no active position."""
        rows = chunk_rows(self.layer.vocabulary_size, self.hidden[i].device)
        for start in range(0, len(self.hidden[i]), rows):
            yield slice(start, start + rows)

    def logits(self, i: int, part: slice) -> Tensor:
        """[m, V] logits / temperature in float32 or better."""
        return temper_(self.layer.logits(self.hidden[i][part]), self.temperature)

    def logprobs(self, i: int, actions: Tensor) -> Tensor:
        """[n] log-probabilities of the actions [n] of micro-batch i."""
        found = [chunk_logprobs(self.logits(i, p), actions[p])[0] for p in self.parts(i)]
        return torch.cat(found) if found else torch.zeros(0, device=actions.device)


class ReferencePass:
    """One reference during one scoring: its hidden states stay, the reference need not.

    Args:
        reference: the frozen policy.
        rollouts: the micro-batches to be scored.
        plans: how they went through the policy, so that equal models give equal bits.
        temperature: of sampling.
    """

    def __init__(
        self,
        reference: FrozenPolicy,
        rollouts: Sequence[Rollout],
        plans: Sequence[PromptPlan],
        temperature: float,
    ) -> None:
        self.reference, self.rollouts, self.temperature = reference, rollouts, temperature
        self.plans = plans
        self.hidden: list[Tensor] | None = None
        self._chunks: Chunks | None = None
        if isinstance(reference, WithoutAdapters):
            # Its forward pass would take apart what ZeRO 3 gathers for the policy's logits.
            with reference.on_device() as policy:
                self._look(policy)

    def _look(self, policy: PolicyModel) -> None:
        self.hidden = [
            policy(*r.model_inputs(), hidden_only=True, plan=plan)
            for r, plan in zip(self.rollouts, self.plans, strict=True)
        ]

    @contextmanager
    def open(self) -> Iterator[Chunks]:
        """The reference on its device; an opening within another one costs nothing."""
        if self._chunks is not None:
            yield self._chunks
            return
        with self.reference.on_device() as policy:
            if self.hidden is None:
                self._look(policy)
            assert self.hidden is not None
            with policy.output_layer.gathered():
                self._chunks = Chunks(policy.output_layer, self.hidden, self.temperature)
                try:
                    yield self._chunks
                finally:
                    self._chunks = None
