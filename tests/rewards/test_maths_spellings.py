"""Verdicts on spellings of numbers against a table worked out by hand, and by fuzzing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from dschat.rewards.math_answers import gold_answer
from dschat.rewards.math_numbers import read_number, same_answer
from dschat.rewards.maths.words import CHANGING, NUMBER_WORDS
from hypothesis import assume, given
from hypothesis import strategies as st
from maths_spellings import RIGHT, WRONG
from property_settings import checked

GSM8K = Path(__file__).parents[3] / "shared/data/gsm8k"


def cases(table: dict[str, dict[str, list[str]]]) -> list[tuple[str, str]]:
    """(text, gold) of a table."""
    return [
        (text, gold) for golds in table.values() for gold, texts in golds.items() for text in texts
    ]


@pytest.mark.parametrize("reason", RIGHT)
def test_spellings_of_the_number(reason: str) -> None:
    for text, gold in cases({reason: RIGHT[reason]}):
        assert same_answer(text, gold), (text, gold)
        assert same_answer(gold, text), (text, gold)


@pytest.mark.parametrize("reason", WRONG)
def test_spellings_of_another_number_or_of_none(reason: str) -> None:
    for text, gold in cases({reason: WRONG[reason]}):
        assert not same_answer(text, gold), (text, gold)
        assert not same_answer(gold, text), (text, gold)


def test_what_the_issue_names() -> None:
    """The spellings by which the fault was found."""
    changed = [
        ("3 fifths", "3"), ("2 squared", "2"), ("5 sqrt", "5"), ("2 pi", "2"), ("$5M", "5"),
        ("3 less than ten", "3"), ("5 is not the answer", "5"), ("7 remainder three", "7"),
    ]  # fmt: skip
    kept = [
        (r"\(12\)", "12"), (r"\[42\]", "42"), ("x = 3", "3"), ("Answer: 12.", "12"),
        ("US$12", "12"), ("12 (twelve)", "12"), ("**42** apples", "42"), ("1.2 x 10^3", "1200"),
        ("1 point", "1"), ("5 times", "5"), ("5 million", "5000000"), ("½", "1/2"),
        ("12 boxes of cookies", "12"), ("#### 12", "12"), ("twelve", "12"), ("\uff11\uff12", "12"),
    ]  # fmt: skip
    assert not [text for text, gold in changed if same_answer(text, gold)]
    assert [text for text, gold in kept if same_answer(text, gold)] == [text for text, _ in kept]


def words_of(number: int) -> str:
    """A number below a trillion in words: the other way round than the reader, by recursion."""
    small = {value: word for word, value in NUMBER_WORDS.items()}
    for scale, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand")):
        if number >= scale:
            rest = number % scale
            return f"{words_of(number // scale)} {name}" + (f" {words_of(rest)}" if rest else "")
    if number >= 100:
        rest = number % 100
        return f"{small[number // 100]} hundred" + (f" and {words_of(rest)}" if rest else "")
    if number in small:
        return small[number]
    return f"{small[number - number % 10]}-{small[number % 10]}"


WRAPPERS: list[Callable[[str], str]] = [
    lambda n: f"**{n}**",
    lambda n: f"**{n}** apples",
    lambda n: rf"\({n}\)",
    lambda n: rf"\[ {n} \]",
    lambda n: f"$ {n} $",
    lambda n: rf"\boxed{{{n}}}",
    lambda n: rf"\boxed{{\text{{{n}}}}}",
    lambda n: f"The answer is {n}.",
    lambda n: f"Answer: {n}",
    lambda n: f"x = {n}",
    lambda n: f"#### {n}",
    lambda n: f"{n} boxes of cookies",
    lambda n: f"So she has {n} of them.",
    lambda n: f"({n})",
    lambda n: f'"{n}"',
    lambda n: f"about {n}",
    lambda n: f"{n} more than Amanda",
]


@checked
@given(st.integers(0, 10**12 - 1), st.sampled_from(WRAPPERS))
def test_numbers_in_words_and_wrappers(number: int, wrap: Callable[[str], str]) -> None:
    assert read_number(words_of(number)) == number
    assert read_number(wrap(words_of(number))) == number
    assert read_number(wrap(f"{number:,}")) == number
    assert read_number(wrap(f"-{number}")) == -number


@checked
@given(st.integers(0, 999), st.integers(1, 99), st.integers(2, 99))
def test_mixed_numbers(whole: int, above: int, below: int) -> None:
    assume(above < below)
    value = whole + Fraction(above, below)
    for text in (
        f"{whole} {above}/{below}",
        rf"{whole}\frac{{{above}}}{{{below}}}",
        f"{whole} and {above}/{below}",
        f"{whole * below + above}/{below}",
    ):
        assert read_number(text) == value, text
        assert read_number(f"-{text}") == -value, text


@checked
@given(st.integers(0, 10**6), st.sampled_from(sorted(CHANGING)), st.sampled_from(["", " apples"]))
def test_no_word_that_changes_a_number_is_passed_over(number: int, word: str, after: str) -> None:
    """A number and a word of the closed classes: another number, the same in signs, or none."""
    found = read_number(f"{number} {word}{after}")
    factor = {"mils": "mil"}.get(word, word)
    clear = read_number(f"1 {factor}")
    if word == "squared":
        assert found == number**2
    elif word == "cubed":
        assert found == number**3
    elif word in ("wrong", "incorrect", "false", "untrue", "impossible", "undefined") and after:
        assert found == number  # 5 wrong apples
    elif found is not None:
        assert clear not in (None, 1), word
        assert found == number * clear, word


@checked
@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(["-", "–", "to", "or", "and", "/", ":", ";", "x", "+", ",", "of"]),
)
def test_two_numbers_are_never_the_first_or_the_second(a: int, b: int, between: str) -> None:
    assume(a != b and b not in (0, 1))
    found = read_number(f"{a} {between} {b}")
    assert found is None or (between == "/" and found == Fraction(a, b))


@checked
@given(st.text(alphabet="0123456789 .,-+/%$xX^()\\{}=abehnot*!?½²√\u2212", max_size=30))
def test_short_texts_are_read_or_not_but_never_raise(text: str) -> None:
    value = read_number(text)
    if value is not None and len(str(value)) < 50:
        assert same_answer(text, str(value))
        assert not same_answer(text, str(value + 1))


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K data are not here")
def test_all_gold_answers_in_all_wrappers() -> None:
    """Every right answer of GSM8K equals itself in every wrapper, and no wrong one does."""
    golds = set()
    for part in ("train", "test"):
        for line in (GSM8K / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
            golds.add(gold_answer(json.loads(line)))
    assert len(golds) > 800
    spellings = [str, lambda gold: f"${gold}", lambda gold: f"{gold}.00"]
    for place, gold in enumerate(sorted(golds)):
        number = int(gold.replace(",", ""))
        for turn, wrap in enumerate(WRAPPERS):
            spelled = wrap(spellings[(place + turn) % 3](gold))
            assert same_answer(spelled, gold), spelled
        assert not same_answer(WRAPPERS[place % len(WRAPPERS)](str(number + 1)), gold)


def test_math_verify_agrees_on_latex() -> None:
    """Where a spelling is LaTeX and nothing else, the peer reads the same number."""
    from math_verify import parse, verify

    compared = 0
    for text, gold in [*cases(RIGHT), *cases(WRONG)]:
        if not re.fullmatch(r"[-0-9.]*\s*\\(?:[dt]?frac|sqrt)[\\{}0-9-]+", text):
            continue
        peers = parse(f"${text}$"), parse(f"${gold}$")
        assert same_answer(text, gold) == bool(verify(*peers)), (text, gold)
        compared += 1
    assert compared > 8
