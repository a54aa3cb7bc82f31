"""What the posts of the embedded example can say: facts, their near-synonyms, and wordings.

A fact is a slot ("feeling") filled by a family of near-synonyms ("angry", "furious", "mad"). A
word belongs to one family only, so the facts that a text states can be read off its words.
"""

from __future__ import annotations

MAIN_SLOTS = ("who", "act", "thing", "feeling", "plan")
"""Facts that every post states and every good summary covers."""

DETAIL_SLOTS = ("place",)
"""Facts that only some posts state."""

SLOTS = MAIN_SLOTS + DETAIL_SLOTS

FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "who": (
        ("mother", "mom", "mum"),
        ("father", "dad", "papa"),
        ("sister", "sis"),
        ("boss", "manager", "supervisor"),
    ),
    "act": (
        ("stole", "swiped", "snatched"),
        ("broke", "smashed", "wrecked"),
        ("hid", "concealed", "stashed"),
        ("bought", "purchased", "acquired"),
    ),
    "thing": (
        ("car", "vehicle", "auto"),
        ("phone", "cellphone", "smartphone"),
        ("bike", "bicycle"),
        ("jacket", "coat", "parka"),
    ),
    "feeling": (
        ("angry", "furious", "mad"),
        ("sad", "upset", "unhappy"),
        ("scared", "afraid", "frightened"),
        ("happy", "glad", "thrilled"),
    ),
    "plan": (
        ("forgive", "pardon", "excuse"),
        ("leave", "ditch", "abandon"),
        ("ignore", "avoid", "shun"),
        ("help", "assist", "support"),
    ),
    "place": (
        ("house", "home", "apartment"),
        ("school", "college", "campus"),
        ("store", "shop", "market"),
        ("hotel", "motel", "inn"),
    ),
}

FACT_OF_WORD: dict[str, tuple[str, int]] = {
    word: (slot, index)
    for slot, families in FAMILIES.items()
    for index, family in enumerate(families)
    for word in family
}
"""Word -> (slot, index of its family in `FAMILIES[slot]`)."""

# Each statement is a sequence of sentences; {slot} stands for a word of the slot's family.
EVENT_STATEMENTS = (
    "my {who} {act} my {thing}.",
    "so my {who} went and {act} my {thing}.",
    "i found out that my {who} {act} my {thing}.",
    "it turns out my {thing} is the one my {who} {act}.",
    "this is about my {who}. they {act} my {thing}.",
    "i have a {thing} that i love. well, my {who} {act} it.",
)
STATEMENTS: dict[str, tuple[str, ...]] = {
    "feeling": (
        "i feel {feeling}.",
        "honestly i am so {feeling} about it.",
        "right now i am just {feeling}.",
        "it left me {feeling}.",
    ),
    "plan": (
        "should i {plan} them?",
        "do you think i should {plan} them?",
        "part of me wants to {plan} them.",
        "would it be wrong to {plan} them?",
    ),
    "place": (
        "it happened at the {place}.",
        "we were at the {place} back then.",
        "all of this went down at the {place}.",
    ),
}

CHATTER = (
    "sorry for the wall of text.",
    "this is a throwaway account.",
    "english is not my first language.",
    "i am new here so bear with me.",
    "i never thought i would write this.",
    "some of you may know the story.",
    "there is more to it but i will keep it short.",
    "any advice is welcome.",
    "thanks for reading.",
)
"""Sentences that state no fact."""

ASIDE_OPENING = "by the way"
ASIDES = (
    ASIDE_OPENING + " my {who} told me to post this.",
    ASIDE_OPENING + " my {who} does not know yet.",
)
"""Sentences that name a person who is not the one the post is about."""

SUBREDDITS = ("relationships", "advice", "family", "work", "legal", "offmychest")

SUMMARY_EVENT = "{who} {act} {thing}{place}."
SUMMARY_PLACE = " at the {place}"
SUMMARY_FEELINGS = ("i feel {feeling}.", "i am {feeling}.")
SUMMARY_PLAN = "should i {plan} them?"
RAMBLING = (
    "this is a long story and there is more to it.",
    "i never thought i would write this here.",
    "thanks for reading and any advice is welcome.",
    "sorry for the wall of text but bear with me.",
)
"""Sentences of a summary that says nothing."""
