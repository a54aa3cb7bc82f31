"""Test cases as APPS has them (Hendrycks et al. 2021, arXiv 2105.09938)."""

from __future__ import annotations

import functools
import json
import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dschat.errors import UserError
from dschat.rewards.code.comparison import NumberComparison

MAX_DIGITS = 4000
"""Python reads integers of up to 4,300 digits from a text by default."""

LONG_INTEGER = "\0integer"
"""The key under which an integer of more digits stands as text: see `parse_json`."""


@dataclass(frozen=True)
class TestCase:
    """One test.

    Attributes:
        input: what the program reads: standard input, or the JSON list of the arguments.
        expected: standard output as a text, or the value to return.
    """

    __test__ = False  # no test class, whatever pytest makes of the name

    input: str
    expected: Any


@dataclass(frozen=True)
class Problem:
    """A programming problem's tests.

    Attributes:
        tests: at least one.
        function: the function, or the method of `class Solution`, to call; None for programs that
            read standard input.
        starter_code: may be empty.
        numbers: how answers that are numbers are compared (`comparison`).
    """

    tests: tuple[TestCase, ...]
    function: str | None = None
    starter_code: str = ""
    numbers: NumberComparison = "exact"


def parse_json(text: str | bytes) -> Any:
    """JSON with integers of any length; one of over `MAX_DIGITS` becomes {LONG_INTEGER: digits}.

    Raises:
        ValueError: it is no JSON. RecursionError: it is too deeply nested.
    """
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= MAX_DIGITS else {LONG_INTEGER: digits}


def read_problem(example: Mapping[str, Any]) -> Problem:
    """The problem of a data row; reads `input_output` (JSON or parsed) and `starter_code`.

    Raises:
        UserError: no tests, or tests of another form.
    """
    given = example.get("input_output")
    starter_code = example.get("starter_code") or ""
    text = given if isinstance(given, str) else json.dumps(given)
    try:
        return _read(text, starter_code)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"The code reward needs rows whose 'input_output' is as in APPS: JSON with 'inputs' "
            f"and 'outputs' of the same length, at least 1, and perhaps 'fn_name'. Given for "
            f"problem {example.get('problem_id')}: {text[:200]!r} ({error}). Use such data."
        ) from error


# Several responses to a prompt follow each other.
@functools.lru_cache(maxsize=32)
def _read(text: str, starter_code: str) -> Problem:
    parsed = parse_json(text)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    inputs, outputs = parsed.get("inputs"), parsed.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError("'inputs' or 'outputs' is not a list")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    function = parsed.get("fn_name")
    if function is None:
        tests = [TestCase(_lines(i), _lines(o)) for i, o in zip(inputs, outputs, strict=True)]
    else:
        named = isinstance(function, str) and function.isidentifier()
        if not named or keyword.iskeyword(function):
            raise ValueError(f"'fn_name' is {function!r}")
        tests = [TestCase(_arguments(i), o) for i, o in zip(inputs, outputs, strict=True)]
    return Problem(tuple(tests), function, starter_code)


def _lines(value: Any) -> str:
    """Some problems of APPS have a list of lines in place of a text."""
    if isinstance(value, list):
        return "\n".join(map(_lines, value))
    return value[LONG_INTEGER] if isinstance(value, dict) and LONG_INTEGER in value else str(value)


def _arguments(value: Any) -> str:
    if not isinstance(value, list):
        raise ValueError("the arguments of a call are not a list")
    return json.dumps(value)
