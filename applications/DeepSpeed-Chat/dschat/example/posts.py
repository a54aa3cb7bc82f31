"""Posts of the embedded example: drawing them, and reading their facts back."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from dschat.example.grammar import (
    ASIDE_OPENING,
    ASIDES,
    CHATTER,
    DETAIL_SLOTS,
    EVENT_STATEMENTS,
    FACT_OF_WORD,
    FAMILIES,
    MAIN_SLOTS,
    SLOTS,
    STATEMENTS,
    SUBREDDITS,
)

DETAIL_PROBABILITY = 0.6
"""How often a post states its place, and likewise its time."""

Facts = dict[str, int]
"""Slot -> index of the family in `FAMILIES[slot]`; a detail the post does not state is absent."""


@dataclass(frozen=True)
class Post:
    """A post: the facts it states, by which words, and the prompt that asks for its summary."""

    facts: Facts
    words: dict[str, str]
    prompt: str


def pick_word(slot: str, family: int, rng: random.Random) -> str:
    """Any word of a slot's family."""
    return rng.choice(FAMILIES[slot][family])


def other_family(slot: str, family: int | None, rng: random.Random) -> int:
    """A family of `slot` other than `family`."""
    return rng.choice([i for i in range(len(FAMILIES[slot])) if i != family])


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return re.findall(r"[^\s.,?!]+", text)


def draw_facts(rng: random.Random) -> Facts:
    """All main facts, and each detail with probability `DETAIL_PROBABILITY`."""
    slots = [s for s in SLOTS if s in MAIN_SLOTS or rng.random() < DETAIL_PROBABILITY]
    return {slot: rng.randrange(len(FAMILIES[slot])) for slot in slots}


def draw_post(rng: random.Random) -> Post:
    """A post that states its facts in varied wording and order, between sentences that state none.

    The prompt has the form of TL;DR data ("POST", subreddit, text, "TL;DR:"). It ends with the
    colon and a summary begins with a blank, so that prompt and prompt + summary have the same
    first tokens.
    """
    facts = draw_facts(rng)
    words = {slot: pick_word(slot, family, rng) for slot, family in facts.items()}
    statements = [rng.choice(EVENT_STATEMENTS).format(**words)]
    for slot in facts:
        if slot in STATEMENTS:
            statements.append(rng.choice(STATEMENTS[slot]).format(**words))
    statements += rng.sample(CHATTER, rng.randint(0, 1))
    if rng.random() < 0.3:
        bystander = pick_word("who", other_family("who", facts["who"], rng), rng)
        statements.append(rng.choice(ASIDES).format(who=bystander))
    rng.shuffle(statements)
    text = " ".join(statements)
    return Post(facts, words, f"POST\nSubreddit: r/{rng.choice(SUBREDDITS)}\n{text}\nTL;DR:")


def read_facts(prompt: str) -> Facts:
    """The facts that a prompt of this example states, from its words; asides are passed over.

    Raises ValueError if it does not state every main fact, as for a text of another origin.
    """
    facts: Facts = {}
    for sentence in re.split(r"(?<=[.?])\s+", prompt.split("\n", 2)[-1]):
        if sentence.startswith(ASIDE_OPENING):
            continue
        for word in words_of(sentence):
            if word in FACT_OF_WORD:
                slot, family = FACT_OF_WORD[word]
                facts[slot] = family
    missing = [slot for slot in MAIN_SLOTS if slot not in facts]
    if missing:
        raise ValueError(
            f"the prompt states no {', '.join(missing)}: {prompt[:60]!r}... is not a prompt of the "
            "embedded example; only those have a gold score"
        )
    return {slot: facts[slot] for slot in MAIN_SLOTS + DETAIL_SLOTS if slot in facts}
