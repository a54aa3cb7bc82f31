"""The posts state their facts once each, and the facts can be read back."""

import random

import pytest
from dschat.example import grammar
from dschat.example.posts import draw_post, read_facts, words_of


def test_a_word_belongs_to_one_family_only() -> None:
    words = [w for families in grammar.FAMILIES.values() for family in families for w in family]
    assert len(words) == len(set(words)) == len(grammar.FACT_OF_WORD)


def test_sentences_that_state_nothing_hold_no_fact_word() -> None:
    wordings = [
        *grammar.CHATTER,
        *grammar.RAMBLING,
        *grammar.EVENT_STATEMENTS,
        *grammar.ASIDES,
        *(wording for wordings in grammar.STATEMENTS.values() for wording in wordings),
    ]
    for wording in wordings:
        assert not set(words_of(wording)) & grammar.FACT_OF_WORD.keys(), wording


def test_facts_are_read_back_from_the_prompt_whatever_the_order_and_the_asides() -> None:
    rng = random.Random(0)
    posts = [draw_post(rng) for _ in range(500)]
    assert any(grammar.ASIDE_OPENING in post.prompt for post in posts)
    for post in posts:
        assert read_facts(post.prompt) == post.facts
        assert set(grammar.MAIN_SLOTS) <= post.facts.keys()


def test_facts_come_in_varying_order() -> None:
    rng = random.Random(0)
    orders = set()
    for _ in range(200):
        post = draw_post(rng)
        positions = {slot: post.prompt.index(f" {word}") for slot, word in post.words.items()}
        orders.add(tuple(sorted(grammar.MAIN_SLOTS, key=positions.__getitem__)))
    assert len(orders) > 6


def test_a_text_of_another_origin_has_no_facts() -> None:
    with pytest.raises(ValueError, match="who, act"):
        read_facts("POST\nhello there.\nTL;DR:")
