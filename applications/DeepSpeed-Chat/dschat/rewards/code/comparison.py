"""Is a program's answer the expected one? Follows the harness of APPS, but where that is too lax.

Standard output: lines are stripped and blank ones left out; what remains must be as many lines,
each with as many words, and the words equal pairwise. Two words are equal as texts or as numbers.
The expected word alone says how near a number must be, for the program chooses how it prints: an
integer has to be met exactly (5.0 is 5, 123456789.0 is not 123456790), and one with leading zeros
is a text, such as the bits 0010. What is expected with a point or an exponent is met within 0.001
or a relative 1e-5, whichever is more (the harness rounds to three places, or takes numpy's
`allclose`). Two integers are compared as texts. No number is infinite.

Returned values: compared as JSON, so that a tuple is a list and a dictionary's keys are texts;
integers exactly and floats within the tolerance, again as the expected one is. The value may also
be the only element of the expected list, for the data often wrap it so.

With `"harness"` any two words or values that are numbers are compared within the tolerance, as
floats: 1000000 is 1000010 then, and whatever overflows is whatever else does.

Other than in the harness, lines and words are never compared as sets: there, "YES" and "NO" on one
line each answers any number of such questions in any order. Nor does the first element of an
expected list answer for the whole list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

NumberComparison = Literal["exact", "harness"]

ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-5

MAX_NUMBER_LENGTH = 400
"""Characters of a word that is read as a number."""

_LINE = re.compile(r"[^\n]+")
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_PADDED = re.compile(r"[+-]?0[0-9]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)


def same_output(output: str, expected: str, numbers: NumberComparison = "exact") -> bool:
    """Whether standard output is the expected one; see the module for the rule."""
    same_word = _near_word if numbers == "harness" else _same_word
    # One line at a time: an output may be as long as its limit, and differ in the first word.
    return all(
        words is not None
        and expected_words is not None
        and len(words) == len(expected_words)
        and all(map(same_word, words, expected_words))
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
    if not _are_numbers(word, expected):
        return False
    if not _INTEGER.fullmatch(expected):
        return _close(float(word), float(expected))
    if _INTEGER.fullmatch(word) or _PADDED.match(word) or _PADDED.match(expected):
        return False
    return Fraction(word) == int(expected)


def _near_word(word: str, expected: str) -> bool:
    """The rule of the harness."""
    if word == expected:
        return True
    if not _are_numbers(word, expected):
        return False
    a, b = float(word), float(expected)
    return a == b or _close(a, b)


def _are_numbers(*texts: str) -> bool:
    return all(len(text) <= MAX_NUMBER_LENGTH and _NUMBER.fullmatch(text) for text in texts)


def _close(a: float, b: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    return abs(a - b) <= max(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * abs(b))


def same_value(value: Any, expected: Any, numbers: NumberComparison = "exact") -> bool:
    """Whether a returned value (parsed JSON) is the expected one; see the module for the rule."""
    equal = partial(_equal, numbers=numbers)
    if equal(value, expected):
        return True
    return isinstance(expected, list) and len(expected) == 1 and equal(value, expected[0])


def _equal(a: Any, b: Any, numbers: NumberComparison) -> bool:
    equal = partial(_equal, numbers=numbers)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    are_numbers = isinstance(a, int | float) and isinstance(b, int | float)
    if are_numbers and (isinstance(b, float) or numbers == "harness"):
        try:
            return a == b or _close(float(a), float(b))
        except OverflowError:  # an integer beyond the floats
            return False
    return bool(a == b)
