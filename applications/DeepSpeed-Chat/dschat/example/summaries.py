"""Summaries of the embedded example: good and worse ones, and the rule that ranks them.

The gold score of a summary, which stands for the human judge:

    +1    for each main fact covered (who, act, thing, feeling, plan), by any word of its family
    +0.5  for each detail covered (place)
    -1    for each word that contradicts the post: another family of the slot, or a detail that
          the post does not state
    -0.2  for each three words in a row that stood in the summary before
    -0.1  for each word over `MAX_WORDS`
    -0.5  if it does not end with "." or "?"

The best score is 5, plus 0.5 if the post states its place.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

from dschat.example import grammar
from dschat.example.posts import Facts, Post, other_family, pick_word, read_facts, words_of
from dschat.rewards import RewardFunction

MAX_WORDS = 16
"""No summary needs more words to cover every fact once."""

PREFERENCE_MARGIN = 1.0
"""Least difference in gold score between the chosen and the rejected summary of a pair."""

SAME_WORD_PROBABILITY = 0.6
"""How often a summary takes over the post's own word; else any word of the family, that included.

Without it a small model needs several times as many steps to find that summaries copy.
"""

DETAIL_COVERED_PROBABILITY = 0.6

DEFECTS = ("wrong", "missing", "rambling", "repeated", "unfinished")
CHOSEN_SPOILT_PROBABILITY = 0.5
CHOSEN_DEFECT_WEIGHTS = (1, 3, 2, 2, 2)
"""Half of the chosen summaries have a defect: as in human data, better is not yet best."""
REJECTED_DEFECT_WEIGHTS = (5, 2, 1, 1, 1)
"""The rejected summary is the chosen one with one or two defects more."""


@dataclass
class Draft:
    """A summary in the making: the facts' words (a missing fact has none) and its defects."""

    words: dict[str, str]
    extra: list[str] = field(default_factory=list)
    repeat: bool = False
    unfinished: bool = False


def best_score(facts: Facts) -> float:
    """The gold score of a summary that covers everything the post states."""
    details = sum(slot in facts for slot in grammar.DETAIL_SLOTS)
    return len(grammar.MAIN_SLOTS) + 0.5 * details


def gold_score(facts: Facts, summary: str) -> float:
    """The score of `summary` by the rule at the head of this module.

    `facts` are those of the post: `Post.facts`, or `read_facts(prompt)`.
    """
    words = words_of(summary)
    covered: set[str] = set()
    score = 0.0
    for word in words:
        if word not in grammar.FACT_OF_WORD:
            continue
        slot, family = grammar.FACT_OF_WORD[word]
        if facts.get(slot) != family:
            score -= 1.0
        elif slot not in covered:
            covered.add(slot)
            score += 1.0 if slot in grammar.MAIN_SLOTS else 0.5
    triples = list(zip(words, words[1:], words[2:], strict=False))
    score -= 0.2 * (len(triples) - len(set(triples)))
    score -= 0.1 * max(0, len(words) - MAX_WORDS)
    if not summary.rstrip().endswith((".", "?")):
        score -= 0.5
    return round(score, 6)


class GoldScore(RewardFunction):
    """The gold score as a reward, `--reward .../summaries.py:GoldScore`.

    The reward model is what PPO maximises; the gold score is what its pairs were ranked by. Where
    the first rises and the second does not, the policy exploits what the reward model overlooks.
    """

    name = "gold score"

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One score per response; ValueError for prompts that are not of this example."""
        facts = map(read_facts, prompts)
        return [gold_score(f, text) for f, text in zip(facts, responses, strict=True)]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The scores, and beside each that of the best possible summary."""
        best = [best_score(read_facts(prompt)) for prompt in prompts]
        return self(prompts, responses, examples), {"best possible": best}


def write_summary(draft: Draft, rng: random.Random) -> str:
    """The text of a draft: event, feeling, plan, in this order; it begins with a blank."""
    words = draft.words
    sentences = [_event(words)]
    feeling = rng.choice(grammar.SUMMARY_FEELINGS)
    if "feeling" in words:
        sentences.append(feeling.format(**words))
    if "plan" in words:
        sentences.append(grammar.SUMMARY_PLAN.format(**words))
    if draft.repeat:
        index = rng.randrange(len(sentences))
        sentences.insert(index, sentences[index])
    for sentence in draft.extra:
        sentences.insert(rng.randint(0, len(sentences)), sentence)
    text = " ".join(sentences)
    if draft.unfinished:
        tokens = text.split(" ")
        text = " ".join(tokens[: rng.randint(len(tokens) // 2, len(tokens) - 1)]).rstrip(".,?")
    return " " + text


def _event(words: dict[str, str]) -> str:
    """The event sentence; a fact that is left out becomes words that say nothing."""
    return grammar.SUMMARY_EVENT.format(
        who=f"my {words['who']}" if "who" in words else "someone",
        act=words.get("act", "messed with"),
        thing=f"my {words['thing']}" if "thing" in words else "my stuff",
        place=grammar.SUMMARY_PLACE.format(**words) if "place" in words else "",
    )


def draw_draft(post: Post, rng: random.Random) -> Draft:
    """A draft without defects, though not every detail is in it."""
    words = {}
    for slot, family in post.facts.items():
        if slot in grammar.MAIN_SLOTS or rng.random() < DETAIL_COVERED_PROBABILITY:
            same = rng.random() < SAME_WORD_PROBABILITY
            words[slot] = post.words[slot] if same else pick_word(slot, family, rng)
    return Draft(words)


def spoil(draft: Draft, defect: str, post: Post, rng: random.Random) -> None:
    """Put one of `DEFECTS` into a draft; "wrong" makes one to four facts wrong."""
    if defect == "wrong":
        slots = [s for s in grammar.SLOTS if s in draft.words or s in grammar.DETAIL_SLOTS]
        for slot in rng.sample(slots, min(len(slots), rng.randint(1, 4))):
            family = other_family(slot, post.facts.get(slot), rng)
            draft.words[slot] = pick_word(slot, family, rng)
    elif defect == "missing":
        left = [slot for slot in draft.words if slot in grammar.MAIN_SLOTS]
        if len(left) > 2:
            del draft.words[rng.choice(left)]
    elif defect == "rambling":
        draft.extra.append(rng.choice(grammar.RAMBLING))
    elif defect == "repeated":
        draft.repeat = True
    elif defect == "unfinished":
        draft.unfinished = True
    else:
        raise ValueError(f"unknown defect {defect!r}; expected one of {', '.join(DEFECTS)}")


def draw_pair(post: Post, rng: random.Random) -> tuple[str, str]:
    """A chosen and a rejected summary, `PREFERENCE_MARGIN` or more apart in gold score.

    They say the same in the same words but for the defects, so that what a reward model sees
    between them is what the gold score judges.
    """
    while True:
        chosen = draw_draft(post, rng)
        if rng.random() < CHOSEN_SPOILT_PROBABILITY:
            spoil(chosen, rng.choices(DEFECTS, CHOSEN_DEFECT_WEIGHTS)[0], post, rng)
        rejected = copy.deepcopy(chosen)
        for defect in rng.choices(DEFECTS, REJECTED_DEFECT_WEIGHTS, k=rng.choice((1, 1, 2))):
            spoil(rejected, defect, post, rng)
        wording = rng.random()
        better = write_summary(chosen, random.Random(wording))
        worse = write_summary(rejected, random.Random(wording))
        gap = gold_score(post.facts, better) - gold_score(post.facts, worse)
        if gap >= PREFERENCE_MARGIN:
            return better, worse
