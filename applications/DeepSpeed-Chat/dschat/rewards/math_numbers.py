"""Are two answers the same number? `1,000`, `1000.0`, `$1000` and `one thousand` are.

Never evaluates a text as code; exact, and in linear time. What decisions were taken:

- Wrappers go first: emphasis, quotes, brackets, maths delimiters, `\\boxed`, `\\text`, tags,
  `####`. Then lead-ins ("Answer:", "x =", "She has", "about") and what was counted ("apples").
- What changes a number is a closed class of words and signs (`math_words`): fractions, powers,
  roots, multipliers, operators, comparisons, negations, variables, constants. It is multiplied out
  where it is clear (`3 fifths`, `2 squared`, `2^3`, `$5M`, `5 dozen`, `two and a half`,
  `square root of 16`, `1.2 x 10^3`); else the text is no number (`5 sqrt`, `2 pi`, `5x`,
  `at least 5`, `5 or more`, `not 5`).
- Two numbers are no number: ranges, ratios, lists, times of day, dates, `12 of 15`. A repeated one
  may stand in brackets (`12 (twelve)`). In equations the last number counts: `3 + 4 = 7`, `x = 3`.
- A calculation left undone is no answer (`6 x 7`, `7 - 3`), but a fraction or a power is.
- A rounded number is that number: `about 12`, `~12`. "almost" and "over" name another one.
- Currency, per cent and units do not count: 50% is 50 and 12 cents are 12. Nor do ordinals: `5th`.
- A single letter behind a number is a variable unless it is a common unit (m, g, s, h, L ...); k,
  K, M, B, bn multiply, and with money so do m, b and T. `3 quarters` is 3/4, `5 quarters` may be
  coins and is none. `5!` may be a factorial. `1,5` and `1.234,5` are none.
"""

from __future__ import annotations

import re
from fractions import Fraction

from dschat.rewards.maths import latex as math_latex
from dschat.rewards.maths.context import (
    check_name,
    check_no_variable,
    has_number,
    is_calculation,
    value_of,
)
from dschat.rewards.maths.text import plain, unwrapped
from dschat.rewards.maths.tokens import NoNumberError

MAX_LENGTH = 200
"""Characters of a number with its unit; a longer text is no number."""

_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"))
_EQUALS = re.compile(
    r"(?:(?<![<>!=])=(?![=<>])|\b(?:is|equals|equal to)\b)(?![^()]*\))", re.IGNORECASE
)
_BRACKETS = re.compile(r"\(([^()]*)\)")


def same_answer(text: str, gold: str) -> bool:
    """Whether two answers are the same number, or the same text if neither is a number.

    Numbers are compared exactly: 1/2 is 0.5, and 0.33 is not 1/3. See the module for what counts
    as a number. Symmetric; never raises, whatever the texts.
    """
    numbers = read_number(text), read_number(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1]
    first, second = _tidy(text), _tidy(gold)
    if first == second:
        return bool(first) and numbers == (None, None)
    return math_latex.same(first, second, numbers)


def read_number(text: str) -> Fraction | None:
    """The number that a text consists of, apart from wrappers, lead-ins and what was counted.

    None for anything else, such as a calculation or a range; see the module.
    """
    text = text.strip()
    if not text or len(text) > MAX_LENGTH:
        return None
    try:
        return _equation(plain(text))
    except NoNumberError:
        return None


def is_integer(text: str) -> bool:
    """Whether a text is an integer written as one: 1000, -3 or 1,000, but not 1000.0 or $5."""
    text = text.strip()
    return len(text) <= MAX_LENGTH and _INTEGER.fullmatch(text.translate(_MINUS)) is not None


def _tidy(text: str) -> str:
    """Without blanks and emphasis around it and the full stop behind it."""
    return text.strip().strip("*").strip().removesuffix(".").rstrip()


def _equation(text: str) -> Fraction:
    """The value of the last side that has a number; the others may not contradict it."""
    value: Fraction | None = None
    sides = [unwrapped(side) for side in _EQUALS.split(text)]
    if not sides[-1]:
        raise NoNumberError  # an equation that goes on
    for side in reversed(sides):
        if not has_number(side):
            check_name(side)
            continue
        try:
            found = _side(side)
        except NoNumberError:
            if is_calculation(side):
                continue  # 3 + 4 = 7, 7 = 3 + 4
            raise
        if value is not None and found != value:
            raise NoNumberError
        value = found
    if value is None:
        raise NoNumberError
    return value


def _side(text: str) -> Fraction:
    """The value of one side; what stands in brackets may say it again, or comment on it."""
    outside = _BRACKETS.sub(" ", text)
    if not has_number(outside):
        return value_of(text.replace("(", " ").replace(")", " "))
    value = value_of(outside)
    for match in _BRACKETS.finditer(text):
        inner = match[1]
        if not has_number(inner):
            check_name(inner)
            if has_number(text[: match.start()]):
                check_no_variable(inner)  # 5(x)
        elif text[: match.start()][-1:].isdigit() and inner[:1].isdigit():
            raise NoNumberError  # 5(5) is a product
        elif not is_calculation(inner) and _equation(inner) != value:
            raise NoNumberError
    return value
