"""The gold score on cases worked out by hand, and the pairs it ranks."""

import random

import pytest
from dschat.example import grammar
from dschat.example.posts import draw_post, read_facts
from dschat.example.summaries import (
    DEFECTS,
    PREFERENCE_MARGIN,
    GoldScore,
    best_score,
    draw_draft,
    draw_pair,
    gold_score,
    spoil,
    write_summary,
)

PROMPT = (
    "POST\nSubreddit: r/family\nit left me mad. so my dad went and swiped my bicycle. by the way "
    "my boss does not know yet. should i shun them? it happened at the diner.\nTL;DR:"
)
PLACED_PROMPT = PROMPT.replace("diner", "campus")
GOOD = " my father stole my bike. i feel angry. should i ignore them?"


@pytest.mark.parametrize(
    ("summary", "score"),
    [
        (GOOD, 5.0),
        (" my papa snatched my bicycle. i am furious. should i avoid them?", 5.0),
        (GOOD.replace(" i feel angry.", ""), 4.0),
        (GOOD.replace("father", "mother"), 3.0),  # not covered, and contradicted
        (GOOD.replace("father", "boss"), 3.0),  # the aside's person
        (GOOD.replace("bike.", "bike at the school."), 4.0),  # a place that the post does not state
        (GOOD[:-1], 4.5),  # unfinished
        (" stole stole stole stole stole.", 0.6),  # "stole stole stole" comes back twice
        (GOOD + " i feel angry. i feel angry.", 4.4),  # 18 words; 2 triples seen before
        ("", -0.5),
    ],
)
def test_gold_score_by_hand(summary: str, score: float) -> None:
    assert gold_score(read_facts(PROMPT), summary) == pytest.approx(score)


def test_a_detail_counts_half() -> None:
    facts = read_facts(PLACED_PROMPT)
    assert gold_score(facts, GOOD.replace("bike.", "bike at the school.")) == 5.5
    assert gold_score(facts, GOOD.replace("bike.", "bike at the shop.")) == 4.0
    assert (best_score(facts), best_score(read_facts(PROMPT))) == (5.5, 5.0)


def test_words_over_the_bound_cost() -> None:
    # 12 words and 10 more: 6 over 16; no triple comes back.
    ramble = " this is a long story and there is more there."
    assert gold_score(read_facts(PROMPT), GOOD + ramble) == pytest.approx(5.0 - 0.6)


def test_every_word_of_a_family_scores_the_same() -> None:
    facts = read_facts(PROMPT)
    for word in ("father", "stole", "bike", "angry", "ignore"):
        slot, family = grammar.FACT_OF_WORD[word]
        for synonym in grammar.FAMILIES[slot][family]:
            assert gold_score(facts, GOOD.replace(word, synonym)) == 5.0, synonym


def test_a_draft_that_covers_all_is_best_and_no_defect_betters_it() -> None:
    rng = random.Random(1)
    for _ in range(200):
        post = draw_post(rng)
        draft = draw_draft(post, rng)
        covered = best_score({slot: post.facts[slot] for slot in draft.words})
        assert gold_score(post.facts, write_summary(draft, rng)) == covered
        defect = rng.choice(DEFECTS)
        spoil(draft, defect, post, rng)
        # A repeated sentence of two words has no triple to come back, hence not "<" throughout.
        assert gold_score(post.facts, write_summary(draft, rng)) <= covered, defect


def test_chosen_scores_above_rejected_and_is_not_always_the_best() -> None:
    rng = random.Random(2)
    best = 0
    for _ in range(500):
        post = draw_post(rng)
        chosen, rejected = draw_pair(post, rng)
        gap = gold_score(post.facts, chosen) - gold_score(post.facts, rejected)
        assert gap >= PREFERENCE_MARGIN
        best += gold_score(post.facts, chosen) == best_score(post.facts)
    assert 0.2 < best / 500 < 0.8


def test_an_unknown_defect_is_refused() -> None:
    rng = random.Random(0)
    post = draw_post(rng)
    with pytest.raises(ValueError, match="'dull'"):
        spoil(draw_draft(post, rng), "dull", post, rng)


def test_the_gold_score_as_a_reward() -> None:
    posts = [draw_post(random.Random(i)) for i in range(3)]
    prompts, responses = [p.prompt for p in posts], [" my mother is happy.", " nothing", ""]
    scores, parts = GoldScore().explained(prompts, responses, [{}] * 3)
    assert scores == [gold_score(p.facts, r) for p, r in zip(posts, responses, strict=True)]
    assert scores[2] == -0.5  # nothing covered, no full stop
    assert parts == {"best possible": [best_score(p.facts) for p in posts]}
    with pytest.raises(ValueError, match="not a prompt of the embedded example"):
        GoldScore()(["Human: hello"], [""], [{}])
