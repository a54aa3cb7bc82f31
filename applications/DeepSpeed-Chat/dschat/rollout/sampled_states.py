"""The hidden states that sampling goes through, kept for scoring.

Sampling computes the state before every token of a response anyway. Kept, they spare scoring the
policy's own pass over prompt and response; log-probabilities and penalty are made from them as from
that pass's states, and agree with it up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class SampledStates:
    """States [H] before each token of B responses, noted step by step while they are sampled.

    Args:
        batch: responses, B.
        limit: their most tokens.
    """

    FIRST_ROOM = 64
    """Tokens for which there is room at first; it doubles when it is full."""

    def __init__(self, batch: int, limit: int) -> None:
        self.batch, self.limit = batch, limit
        self.states: Tensor | None = None  # [B, room, H]

    def note(self, states: Tensor, rows: Tensor, step: int) -> None:
        """Keep the states [b, H] before the token number `step` of the responses `rows` [b]."""
        room = 0 if self.states is None else self.states.shape[1]
        if step >= room:
            room = min(self.limit, max(self.FIRST_ROOM, 2 * room))
            larger = states.new_empty(self.batch, room, states.shape[1])
            if self.states is not None:
                larger[:, : self.states.shape[1]] = self.states
            self.states = larger
        assert self.states is not None
        self.states[rows, step] = states

    def of_responses(self, responses: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per response [length, H]."""
        assert self.states is not None
        return [self.states[row, : len(r)] for row, r in enumerate(responses)]
