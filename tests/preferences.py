"""Preferences with a simple rule, for training tests."""

from __future__ import annotations

NAMES = ("fox", "dog", "egg", "kettle", "tea", "lazy fox", "brown dog", "new kettle")


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    """Preferences with a simple rule: the chosen response names what the prompt asks for."""
    found = []
    for i in range(first, first + count):
        name = NAMES[i % len(NAMES)]
        prompt = f"Human: Name number {i}, the {name}. Assistant:"
        found.append(
            {"prompt": prompt, "chosen": f" The {name}.", "rejected": " I do not know that."}
        )
    return found
