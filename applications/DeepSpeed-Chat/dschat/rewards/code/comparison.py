"""Is a program's answer the expected one? Follows the harness of APPS, but where that is too lax.

Standard output: lines are stripped and blank ones left out; what remains must be as many lines,
each with as many words, and the words equal pairwise. Two words are equal as texts, or as numbers
if at least one of them is written with a point or an exponent: within 0.001 or a relative 1e-5,
whichever is more (the harness rounds to three places, or takes numpy's `allclose`). Integers are
compared as texts, so that 1000000 is not 1000001 and the bits 0010 are not 10.

Returned values: compared as JSON, so that a tuple is a list and a dictionary's keys are texts;
numbers as above if one of them is a float. The value may also be the only element of the expected
list, for the data often wrap it so.

Other than in the harness, lines and words are never compared as sets: there, "YES" and "NO" on one
line each answers any number of such questions in any order. Nor does the first element of an
expected list answer for the whole list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-5

MAX_NUMBER_LENGTH = 400
"""Characters of a word that is read as a number."""

_LINE = re.compile(r"[^\n]+")
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)


def same_output(output: str, expected: str) -> bool:
    """Whether standard output is the expected one; see the module for the rule."""
    # One line at a time: an output may be as long as its limit, and differ in the first word.
    return all(
        words is not None
        and expected_words is not None
        and len(words) == len(expected_words)
        and all(map(_same_word, words, expected_words))
        for words, expected_words in zip_longest(_lines(output), _lines(expected))
    )


def _lines(text: str) -> Iterator[list[str]]:
    """The words of each line that has some."""
    for line in _LINE.finditer(text):
        if words := line[0].split():
            yield words


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    if _INTEGER.fullmatch(word) and _INTEGER.fullmatch(expected):
        return False
    if max(len(word), len(expected)) > MAX_NUMBER_LENGTH:
        return False
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(expected)):
        return False
    return _close(float(word), float(expected))


def _close(a: float, b: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b
    return abs(a - b) <= max(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * abs(b))


def same_value(value: Any, expected: Any) -> bool:
    """Whether a returned value (parsed JSON) is the expected one; see the module for the rule."""
    if _equal(value, expected):
        return True
    return isinstance(expected, list) and len(expected) == 1 and _equal(value, expected[0])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    if numbers and (isinstance(a, float) or isinstance(b, float)):
        try:
            return _close(float(a), float(b))
        except OverflowError:  # an integer beyond the floats
            return False
    return bool(a == b)
