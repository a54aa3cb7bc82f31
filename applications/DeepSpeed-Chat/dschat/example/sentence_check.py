"""Is a response one plain English sentence with a given word? The check, and the reward it makes.

The check reads the response's text alone. It asks for what a policy could otherwise leave out
while it gains reward: a sentence that begins and ends as one, of a sensible length, without a
word said again and again, and nothing before, behind or around it.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

from dschat.rewards import RewardFunction

WORDS = (6, 18)
"""Fewest and most words of a sentence."""

MOST_REPEATS = 2
"""How often a word of four letters or more may be in a sentence; the given word: once."""

WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;'’-]*[.!?]")
PARTS = ("word", "sentence", "success")


def faults(response: str, word: str) -> list[str]:
    """What keeps a response from being one plain sentence that contains `word`; [] if nothing.

    Faults are "word" (it is not there exactly once, as a whole word), "plain" (no capital letter
    at the beginning, no single full stop, question or exclamation mark at the end, or quotes, line
    ends and other signs between), "length" and "repeats"; see the constants above.
    """
    text = response.strip()
    words = [found.lower() for found in WORD.findall(text)]
    counts = Counter(words)
    found = []
    if counts[word.lower()] != 1:
        found.append("word")
    if not PLAIN.fullmatch(text):
        found.append("plain")
    if not WORDS[0] <= len(words) <= WORDS[1]:
        found.append("length")
    if any(n > MOST_REPEATS for w, n in counts.items() if len(w) >= 4) or any(
        a == b for a, b in pairwise(words)
    ):
        found.append("repeats")
    return found


def succeeded(response: str, example: dict[str, Any]) -> bool:
    """Whether a response has no fault; the word is the row's `word`."""
    return not faults(response, example["word"])


class SentenceReward(RewardFunction):
    """0.5 for the word, 0.5 for a plain sentence, and 1 more for both: 0 to 2 in all."""

    name = "one sentence with a word"

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One reward per response; reads `word` of the examples."""
        return self.explained(prompts, responses, examples)[0]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The rewards, and the shares of responses behind them by the names in `PARTS`."""
        found = [faults(r, e["word"]) for r, e in zip(responses, examples, strict=True)]
        has_word = [float("word" not in f) for f in found]
        is_sentence = [float(set(f) <= {"word"}) for f in found]
        success = [float(not f) for f in found]
        rewards = [
            0.5 * w + 0.5 * s + b for w, s, b in zip(has_word, is_sentence, success, strict=True)
        ]
        return rewards, dict(zip(PARTS, (has_word, is_sentence, success), strict=True))
