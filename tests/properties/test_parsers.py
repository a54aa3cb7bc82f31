"""Parsers: nothing makes them raise, and only exact forms are taken."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
from dschat.data.splits import parse_data_split, split_indices
from dschat.errors import UserError
from dschat.evaluation.judging.instructions import read_answer
from dschat.rewards.code.comparison import same_output, same_value
from dschat.rewards.code.extraction import extract_program, has_statements, with_starter_code
from dschat.rewards.math_answers import MathAnswerReward
from dschat.rewards.math_numbers import is_integer, read_number, same_answer
from dschat.rewards.maths.extraction import tagged
from hypothesis import assume, example, given
from hypothesis import strategies as st
from property_settings import checked

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
# Text as models write it: what parsers look for, anywhere and in any order.
PIECES = ["```", "```python\n", "\n", "<answer>", "</answer>", "<reasoning>", "</reasoning>"]
PIECES += ["####", "A", "B", "E", ".", "1/2", "$3,000", "{", '"choice"', ":", "def f(x):", " "]
MODEL_TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join)
TEXTS = st.text(max_size=60) | MODEL_TEXTS
SHARES = st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any)


@checked
@given(st.integers(0, 300), SHARES, st.integers(0, 2**32 - 1))
def test_splits_are_a_partition_in_proportion(size: int, shares: list[int], seed: int) -> None:
    text = ",".join(map(str, shares))
    parts = split_indices(size, text, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    for part, share in zip(parts, shares, strict=True):
        # Each length is rounded once, and the surplus of all is taken off one part.
        assert abs(len(part) - size * share / sum(shares)) <= 0.5 + 0.5 * len(shares)
    again = split_indices(size, [4 * share for share in shares], seed)
    assert all(np.array_equal(x, y) for x, y in zip(parts, again, strict=True))
    if size > 20:
        other = split_indices(size, text, (seed + 1) % 2**32)
        assert not np.array_equal(np.concatenate(parts), np.concatenate(other))


@checked
@given(TEXTS | st.text(alphabet="0123456789.,-+einfa ", max_size=12))
def test_a_data_split_is_read_or_refused(text: str) -> None:
    try:
        parts = parse_data_split(text)
    except UserError:
        return
    assert len(parts) == text.count(",") + 1
    assert all(math.isfinite(part) and part >= 0 for part in parts)
    # Numbers so large that their sum is infinite have no shares.
    assert math.isfinite(sum(parts))
    assert sum(len(part) for part in split_indices(7, text, 0)) == 7


@checked
@given(TEXTS, TEXTS)
@example("```", "f")
def test_a_program_is_found_in_any_text(text: str, name: str) -> None:
    program = extract_program(text)
    assert isinstance(has_statements(program), bool)
    assert with_starter_code(program, text, name).endswith(program)
    # A labelled block at the end is the program, whatever stands before it.
    assume(len(re.findall("```", text)) == 0)
    fenced = f"{text}\n```python\nprint({len(text)})\n```\n"
    assert extract_program(fenced) == f"print({len(text)})\n"


@checked
@given(TEXTS, TEXTS)
def test_maths_answers_are_read_or_not_but_never_raise(text: str, other: str) -> None:
    answer = tagged(text)
    assert answer is None or answer in text
    assert same_answer(text, other) == same_answer(other, text)
    assert same_answer(text + "x", text + "x")
    number = read_number(text)
    assert number is None or same_answer(text, str(number))
    assert not is_integer(text) or number is not None
    reward = MathAnswerReward()
    (score,) = reward([""], [text], [{"answer": "#### 3"}])
    assert 0 <= score <= 2.0 + 3 * 0.5 + 4 * 0.125


@checked
@given(
    TEXTS
    | st.tuples(
        *map(st.sampled_from, (["", " ", "\n"], "ABEab", ["", ".", "..", " ."], ["", "\n"]))
    ).map("".join)
)
def test_a_judges_letter_stands_alone(text: str) -> None:
    choice = read_answer("summarize", text).choice
    object_of = '{"choice": "%s"}'
    exact = re.fullmatch(r"\s*([ABE])\.?\s*", text)
    for mark in ("**%s**", "(%s)", "[[%s]]", object_of):
        assert (read_answer("summarize", mark % text.strip()).choice == choice) or not exact
    meant = {"A": "first", "B": "second", "E": "tie"}
    assert choice == (meant[exact[1]] if exact else None)


@checked
@given(
    st.dictionaries(st.sampled_from(["comparison", "choice", "note"]), JSON_VALUES)
    | st.fixed_dictionaries(
        {"comparison": st.text(max_size=9), "choice": st.sampled_from("ABECab")},
        optional={"note": st.none()},
    )
    | JSON_VALUES,
    st.sampled_from(["", " ", "\n", "Answer: ", "```json\n", "```", "{", "null"]),
)
def test_a_judges_object_is_exact(value: Any, before: str) -> None:
    after = "\n```" if before == "```json\n" else ""
    choice = read_answer("hh-rlhf", before + json.dumps(value) + after).choice
    right = (
        before in ("", " ", "\n", "```json\n")
        and isinstance(value, dict)
        and sorted(value) in (["choice", "comparison"], ["choice"])
        and isinstance(value.get("comparison", ""), str)
        and value["choice"] in ("A", "B", "E")
    )
    letter = isinstance(value, str) and value in ("A", "B", "E", "A.", "B.", "E.")
    right = right or (letter and before in ("", " ", "\n"))
    assert (choice is not None) == right


@checked
@given(TEXTS | st.text(alphabet="0123456789.e-+ \n\r", max_size=30), st.text(alphabet=" \t\n"))
def test_an_output_is_the_same_as_itself(text: str, blanks: str) -> None:
    assert same_output(text, text)
    assert same_output(text + "\n" + blanks, blanks + "\n" + text)
    assert not same_output(text + "\nmore", text)
    assert not same_output(text, text + "\nmore")


@checked
@given(JSON_VALUES, JSON_VALUES)
def test_a_value_is_the_same_as_itself(value: Any, other: Any) -> None:
    assert same_value(value, value)
    assert same_value(value, json.loads(json.dumps(value)))
    assert same_value([value, other], (json.loads(json.dumps([value, other]))))
    assert same_value(value, [value])
    assert not same_value([value, other], [value])
    assert not same_value(other, [value, other]) or other == [value, other]
