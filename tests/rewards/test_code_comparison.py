"""When an answer is the expected one: hand-written cases."""

from __future__ import annotations

import pytest
from dschat.rewards.code.comparison import same_output, same_value
from dschat.rewards.code.problems import parse_json


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("3\n", "3"),
        ("  3  \n\n", "3\n"),
        ("1 2\r\n3\r\n", "1 2\n3\n"),
        ("1  2\n\n\n3", "1 2\n3"),
        ("", ""),
        ("\n \n", ""),
        ("Yes", "Yes"),
        ("5.0", "5"),
        ("0.3334", "0.33333"),
        ("-0.0004", "0.0"),
        ("1e3", "1000"),
        ("1000000.5", "1000001.5"),
        ("nan", "nan"),
        ("x=1.5", "x=1.5"),
    ],
)
def test_same_output(output: str, expected: str) -> None:
    assert same_output(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("4", "3"),
        ("", "3"),
        ("3\n3", "3"),
        ("1 2 3", "1\n2\n3"),
        ("2 1", "1 2"),
        ("YES\nNO", "YES\nYES\nNO"),
        ("NO\nYES", "YES\nNO"),
        ("1000001", "1000000"),
        ("10", "0010"),
        ("3.5", "3"),
        ("0.335", "0.333"),
        ("yes", "YES"),
        ("passed", "3"),
        ("inf", "1e9999"),
        ("1_0.0", "10.0"),
        ("1e9999", "1e308"),
        ("9" * 500 + ".0", "9" * 500),
        ("\x00" * 1000, ""),
        ("3", "3\n4"),
        ("3\n4", "3"),
        ("3 4", "3"),
    ],
)
def test_other_output(output: str, expected: str) -> None:
    assert not same_output(output, expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", "3"),
        ("[1, 2]", "[1, 2]"),
        ("[1, 2]", "[[1, 2]]"),
        ("5", "[5]"),
        ("0.1", "0.10000001"),
        ("2.0", "2"),
        ("true", "true"),
        ('{"1": 2}', '{"1": 2}'),
        ("null", "null"),
        ("[[], {}]", "[[], {}]"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_same_value(value: str, expected: str) -> None:
    assert same_value(parse_json(value), parse_json(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", "4"),
        ("1", "[1, 2]"),
        ("[2, 1]", "[1, 2]"),
        ("null", "[]"),
        ('"3"', "3"),
        ("NaN", "NaN"),
        ("9" * 5000, "9" * 4999 + "8"),
        ("9" * 3000, "1.5"),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
    ],
)
def test_other_value(value: str, expected: str) -> None:
    assert not same_value(parse_json(value), parse_json(expected))
