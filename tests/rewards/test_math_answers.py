"""Answers compared as numbers, and the parts of the maths reward."""

from __future__ import annotations

import json
import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards.math_answers import (
    MathAnswerReward,
    MathRewardWeights,
    answered_correctly,
    gold_answer,
)
from dschat.rewards.math_numbers import is_integer, read_number, same_answer
from dschat.rewards.maths.extraction import tagged
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property_settings import FIXED, checked

GSM8K = Path(__file__).parents[3] / "shared/data/gsm8k"
FULL = "<reasoning>\n7 + 5 = 12\n</reasoning>\n<answer>\n12\n</answer>"
ROW = {"question": "What is 7 + 5?", "answer": "7 + 5 = 12\n#### 12"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1000", "1,000"),
        ("1000", "1000.0"),
        ("1000", "$1000"),
        ("1000", "$1,000.00"),
        ("1000", " 1 000 "),
        ("1000", "1\u202f000"),
        ("1000", "1e3"),
        ("1000", "1.0E+3"),
        ("1000", "1000."),
        ("1000", "**1000**"),
        ("1000", "+1000"),
        ("-5", "\u22125"),
        ("-5", "-$5"),
        ("-5", "$-5.00"),
        ("50", "50%"),
        ("50", "50 %"),
        ("0.5", "1/2"),
        (".5", "0.50"),
        ("1.75", "1 3/4"),
        ("-1.75", "-1 3/4"),
        ("72", "72 clips"),
        ("72", "72 dollars per hour."),
        ("10", "$10/hour"),
        ("10", "10€"),
        ("3", "3-day"),
        ("0", "-0"),
        ("0.001", "1e-3"),
        ("42", "x = 42"),
        ("42", "the answer is 42"),
        ("4", "2^2"),
        ("no", "no."),
    ],
)
def test_spellings_of_one_number(a: str, b: str) -> None:
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1000", "100"),
        ("5", "-5"),
        ("0.33", "1/3"),
        ("50%", "0.5"),
        ("2", "2 million"),
        ("5", "5 and a half"),
        ("5", "5 to 6"),
        ("5", "5 or 6"),
        ("5", "5-6"),
        ("42", "6*7"),
        ("42", "6 x 7"),
        ("42", r"6 \times 7"),
        ("1000", "1,00,0"),
        ("12", "1,2"),
        ("1.5", "1,5"),
        ("1", "1/0"),
        ("5", "--5"),
        ("5", "-$-5"),
        ("", ""),
        ("5", ""),
        ("yes", "no"),
        ("2", "\u00b2"),
        ("5", "\u0665"),  # Arabic-Indic five
        ("2", r"2 \text{ million}"),
    ],
)
def test_what_is_not_the_same(a: str, b: str) -> None:
    assert not same_answer(a, b)
    assert not same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("0.5", r"$\dfrac12$"),
        ("72", r"\boxed{72}"),
        ("1000", r"\$1{,}000"),
        ("50", r"50\%"),
        ("1.5", r"1\frac{1}{2}"),
        ("-3", r"-\frac{6}{2}"),
        ("72", r"72 \text{ dollars}"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"\frac{\pi}{2}", r"\frac{2\pi}{4}"),
    ],
)
def test_latex_is_read(a: str, b: str) -> None:
    assert same_answer(a, b)
    assert same_answer(b, a)
    assert not same_answer("7", b)


def test_numbers_are_exact() -> None:
    assert read_number("0.1") == Fraction(1, 10)
    assert read_number("12345678901234567890.5") == Fraction("12345678901234567890.5")
    assert not same_answer("12345678901234567890", "12345678901234567891")


SPELLINGS = [
    str,
    lambda n: f"{n:,}",
    lambda n: f"{n}.0",
    lambda n: f"${n}",
    lambda n: f"{n} apples.",
    lambda n: f"{2 * n}/2",
    lambda n: f"{n}e0",
    lambda n: str(n).replace("-", "\u2212"),
]


@checked
@given(
    st.integers(-(10**15), 10**15),
    st.integers(-(10**15), 10**15),
    st.sampled_from(SPELLINGS),
    st.sampled_from(SPELLINGS),
)
def test_any_integer_in_any_spelling(a: int, b: int, first: Any, second: Any) -> None:
    assert same_answer(first(a), second(a))
    assert same_answer(first(a), second(b)) == (a == b)
    assert read_number(first(a)) == a


@checked
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9))
def test_any_decimal_is_read_exactly(number: Any) -> None:
    text = str(number)
    if "E" not in text or len(text.split("E")[1]) <= 4:
        assert read_number(text) == Fraction(number)


MATHS_SIGNS = "0123456789\\{}$,.-+/ %fracsqrtboxedpi^!()e"


@settings(max_examples=40, **FIXED)
@given(
    st.text(max_size=90),
    st.text(alphabet="0123456789\\{}$,.-+/ %fracsqrtboxedpi^!()e", max_size=90),
)
@example("\\frac{\\frac{1}{2}}{\\sqrt{\\sqrt{2}}}", "\\sqrt{999999999999999}")
@example("\ud800", "\\text{\ud800}5")
@example("1/0", "\\frac{1}{0}")
def test_no_text_raises_and_order_does_not_matter(a: str, b: str) -> None:
    for text in (a, b):
        same_answer(text, text)
        same_answer(text, "5")
    assert same_answer(a, b) == same_answer(b, a)


@pytest.mark.parametrize(
    "text",
    [
        "10^10^10",
        "10**10**10",
        r"10^{10^{10}}",
        r"9!!!!!!!!",
        "9" * 1_000_000,
        "1e999999999",
        "1" + ",000" * 250_000,
        "1 " * 500_000,
        "<answer>" * 100_000,
        "</answer>" * 100_000,
        "<reasoning>\n" * 100_000,
        "-" * 1_000_000,
        "*" * 1_000_000,
        " " * 1_000_000 + "x",
        "5" + " a" * 500_000,
        "\\frac{" * 200_000,
        r"\sqrt{" * 12 + "7" + "}" * 12,
        r"\frac{999999999999989}{999999999999937}",
    ],
    ids=range(18),
)
def test_hostile_texts_are_answered_at_once(text: str) -> None:
    import math_verify  # noqa: F401  its import is not what is measured

    reward = MathAnswerReward()
    begin = time.process_time()
    for other in ("5", r"\frac{1}{2}", text):
        same_answer(text, other)
    for response in (text, f"<reasoning>\n{text}\n</reasoning>\n<answer>\n{text}\n</answer>"):
        assert math.isfinite(reward([""], [response], [ROW])[0])
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (FULL, "12"),
        ("<answer>12</answer> and <answer>\n13 </answer> bye", "13"),
        ("<answer>12</answer><answer>13", "12"),
        ("<answer>12", None),
        ("12</answer>", None),
        ("</answer>12<answer>", None),
        ("<answer> \n</answer>", None),
        ("the answer is 12", None),
        ("", None),
    ],
)
def test_the_last_complete_answer_is_extracted(response: str, answer: str | None) -> None:
    assert tagged(response) == answer


def test_gold_answers() -> None:
    assert gold_answer({"answer": "a #### 1\n#### 1,234 \n"}) == "1,234"
    for row in ({"answer": "12"}, {"answer": "x ####  "}, {"answer": 12}, {}):
        with pytest.raises(UserError, match="####"):
            gold_answer(row)
    assert answered_correctly("<answer>12.0</answer>", ROW)
    assert answered_correctly("12", ROW)
    assert not answered_correctly("12", ROW, ["tags"])
    assert not answered_correctly("13", ROW)
    with pytest.raises(UserError, match="####"):
        answered_correctly("", {"answer": "12"})


def test_integers() -> None:
    assert all(map(is_integer, ("12", "-12", "+3", "1,000", " 007 ", "\u22125")))
    assert not any(map(is_integer, ("12.0", "$12", "12%", "1,00", "1/1", "", "-", "1e3", "twelve")))


# answer, integer, strict_format, soft_format, tags: worked out by hand.
CASES: list[tuple[str, tuple[float, ...]]] = [
    (FULL, (2, 0.5, 0.5, 0.5, 0.5)),
    (FULL + "\n", (2, 0.5, 0.5, 0.5, 0.5)),
    (FULL.replace("7 + 5", "one\ntwo"), (2, 0.5, 0.5, 0.5, 0.5)),
    (FULL + "\n\n", (2, 0.5, 0, 0.5, 0.5)),
    (FULL + " bye", (2, 0.5, 0, 0.5, 0.5)),
    ("Well: " + FULL, (2, 0.5, 0, 0.5, 0.5)),
    (FULL.replace("\n", ""), (2, 0.5, 0, 0.5, 0.5)),
    (FULL.replace("\n12\n", "\n13\n"), (0, 0.5, 0.5, 0.5, 0.5)),
    (FULL.replace("\n12\n", "\n$12.00\n"), (2, 0, 0.5, 0.5, 0.5)),
    (FULL.replace("\n12\n", "\ntwelve\n"), (2, 0, 0.5, 0.5, 0.5)),
    (FULL.removesuffix("</answer>"), (0, 0, 0, 0, 0.375)),
    (FULL + FULL, (2, 0.5, 0, 0.5, 0)),
    ("<answer>12</answer><reasoning></reasoning>", (2, 0.5, 0, 0, 0.5)),
    ("<answer>12</answer>", (2, 0.5, 0, 0, 0.25)),
    ("12", (0, 0, 0, 0, 0)),
    ("", (0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("response", "expected"), CASES)
def test_the_parts_of_the_reward(response: str, expected: tuple[float, ...]) -> None:
    reward = MathAnswerReward()
    parts = reward.parts([response], [ROW])
    assert tuple(values[0] for values in parts.values()) == expected
    assert list(parts) == ["answer", "integer", "strict_format", "soft_format", "tags"]
    assert reward(["p"], [response], [ROW]) == [sum(expected)]


def test_weights_are_settable_and_checked() -> None:
    reward = MathAnswerReward(MathRewardWeights(1, 0, 0, 0.25, 0.5))
    assert reward(["p", "q"], [FULL, "<answer>1</answer>"], [ROW, ROW]) == [3.25, 1.0]
    with pytest.raises(UserError, match="nan"):
        MathRewardWeights(answer=math.nan)
    with pytest.raises(UserError, match="All"):
        MathRewardWeights(0, 0, 0, 0, 0)


def test_a_template_that_opens_the_response() -> None:
    rest = FULL.removeprefix("<reasoning>\n")
    reward = MathAnswerReward()
    assert reward(["... <assistant>\n<reasoning>\n"], [rest], [ROW]) == [4.0]
    assert reward(["... <assistant>\n"], [rest], [ROW]) == [2.0 + 0.5 + 0.375]
    assert reward.parts([rest], [ROW], ["<reasoning>"])["strict_format"] == [0.5]


def test_one_reward_per_response_in_order() -> None:
    rows = [{"answer": f"#### {n}"} for n in range(4)]
    responses = [f"<answer>{n}</answer>" for n in (0, 2, 2, 0)]
    assert MathAnswerReward().parts(responses, rows)["answer"] == [2.0, 0.0, 2.0, 0.0]
    with pytest.raises(ValueError):
        MathAnswerReward()([""], ["a", "b"], [ROW])


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K data are not here")
def test_all_gold_answers_of_gsm8k_are_read_in_other_spellings() -> None:
    count = 0
    for part in ("train", "test"):
        for line in (GSM8K / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
            gold = gold_answer(json.loads(line))
            number = int(gold.replace(",", ""))
            assert read_number(gold) == number
            assert is_integer(gold)
            spelling = SPELLINGS[count % len(SPELLINGS)]
            assert same_answer(spelling(number), gold)
            assert not same_answer(spelling(number + 1), gold)
            count += 1
    assert count > 7000
