"""DAPO's soft penalty of over-long responses (Yu et al., 2025, arXiv 2503.14476, equation 13)."""

from __future__ import annotations

from typing import Any

from dschat.rewards.base import Example, RewardFunction


class OverlongPenalty(RewardFunction):
    """0 up to `limit - buffer` tokens; from there down to -factor at the limit, on a straight line.

    Args:
        limit: most tokens of a response, the end token included. buffer: of these, the last ones.
        factor: the largest penalty.
    """

    name = "overlong"

    def __init__(self, limit: int, buffer: int, factor: float = 1.0) -> None:
        self.limit, self.buffer, self.factor = limit, buffer, factor

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> list[float]:
        """From the lengths of `response_ids`, which the trainer adds to the examples."""
        beyond = [len(e["response_ids"]) - (self.limit - self.buffer) for e in examples]
        return [-self.factor * min(max(n, 0) / self.buffer, 1.0) for n in beyond]


def overlong_penalty(settings: Any) -> OverlongPenalty:
    """The registry's entry: of `--max_answer_seq_len` tokens the last fifth, as in the paper."""
    limit = settings.max_answer_seq_len
    buffer = settings.overlong_buffer_len or max(1, limit // 5)
    return OverlongPenalty(limit, buffer, settings.overlong_penalty_factor)
