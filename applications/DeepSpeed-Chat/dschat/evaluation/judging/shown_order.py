"""In which order a pair is shown, and what a choice then says of the models."""

from __future__ import annotations

import random

from dschat.evaluation.judging.instructions import Choice
from dschat.evaluation.judging.pairs import Pair


def first_shown(pair: Pair, seed: int) -> str:
    """ "A" or "B", at random, and always the same for one pair and seed."""
    return random.Random(f"{seed}\n{pair.line}\n{pair.prompt}").choice("AB")


def in_order(pair: Pair, first: str) -> tuple[str, str]:
    """The two responses as they are shown."""
    a, b = pair.responses
    return (a, b) if first == "A" else (b, a)


def winner_of(choice: Choice | None, first: str) -> str | None:
    """The model of a choice: "A", "B" or "Tie"; None of an answer that cannot be read."""
    if choice == "first":
        return first
    if choice == "second":
        return "B" if first == "A" else "A"
    return "Tie" if choice == "tie" else None
