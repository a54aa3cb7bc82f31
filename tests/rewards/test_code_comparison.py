"""When an answer is the expected one: hand-written cases."""

from __future__ import annotations

import math

import pytest
from dschat.rewards.code.comparison import same_output, same_value
from dschat.rewards.code.problems import parse_json
from hypothesis import given
from hypothesis import strategies as st
from property_settings import checked


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
        ("inf", "inf"),
        ("5.", "5"),
        ("50e-1", "5"),
        ("-0.0", "0"),
        ("123456789012345678.0", "123456789012345678"),
        ("1.23457e8", "123457000"),
        ("1e300", "1" + "0" * 300),
        ("5", "5.0"),
        ("4.9999", "5.0"),
        ("123456", "1.23456e5"),
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
        ("1e9999", "1e8888"),
        ("123456789.0", "123456790"),
        ("1000000.0", "1000001"),
        ("4.9999", "5"),
        ("1e999", "9" * 310),
        ("1e309", "9" * 310),
        ("123457000000000000.0", "123456789012345678"),
        ("1101000000000000.0", "1101000000000001"),
        ("10.", "0010"),
        ("0010.0", "10"),
        ("9.3248e157", str(math.factorial(100))),
        ("1e999", "inf"),
        ("5.0", "05"),
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
        ("2", "2.0"),
        ("1.99999", "2.0"),
        ("[1.0, 2]", "[1, 2.0]"),
        ("Infinity", "Infinity"),
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
        ("1.99999", "2"),
        ("123456789.0", "123456790"),
        ("1e999", "9" * 320),
        ("1e999", "1e308"),
        ("[1.99999]", "[2]"),
        ("9.332621544394402e157", str(math.factorial(100))),
        ("9" * 5000, "9" * 4999 + "8"),
        ("9" * 3000, "1.5"),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
    ],
)
def test_other_value(value: str, expected: str) -> None:
    assert not same_value(parse_json(value), parse_json(expected))


@checked
@given(
    st.integers(), st.integers(1, 10**6), st.sampled_from(["{}.0", "{}.", "{}e0", "{}.00", "{}"])
)
def test_an_expected_integer_is_met_by_itself_alone(
    expected: int, error: int, spelling: str
) -> None:
    assert same_output(spelling.format(expected), str(expected))
    for other in (expected + error, expected - error):
        assert not same_output(spelling.format(other), str(expected))
        assert not same_value(float(other) if abs(other) < 2**53 else other, expected)


@checked
@given(
    st.integers(300, 390), st.integers(1, 9), st.sampled_from(["1e999", "9e9999", "1e309", "inf"])
)
def test_nothing_overflows_into_an_integer(digits: int, first: int, overflow: str) -> None:
    expected = str(first) * digits
    assert not same_output(overflow, expected)
    assert not same_value(math.inf, int(expected))
    assert not same_output(f"{float(expected) if digits < 309 else 0.0:.5e}", expected)


def test_the_rule_of_the_harness() -> None:
    for output, expected in (("123456789.0", "123456790"), ("1000001", "1000000"), ("10.", "0010")):
        assert same_output(output, expected, "harness")
        assert not same_output(output, expected)
    assert same_value(1000001, 1000000, "harness")
    assert same_output("1e999", "9" * 310, "harness")
    assert not same_output("NO\nYES", "YES\nNO", "harness")
    assert not same_output("2", "1", "harness")
