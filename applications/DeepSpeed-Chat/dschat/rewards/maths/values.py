"""Exact values of digits, powers and roots, where they are of a readable size."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from dschat.rewards.maths.tokens import NoNumberError

MAX_POWER_DIGITS = 400
MAX_ROOT_DIGITS = 30

_EXPONENT = re.compile(r"[eE]")


def number(text: str) -> Fraction:
    """Digits, their groups joined, as an exact number."""
    mantissa, *exponent = _EXPONENT.split(text)
    digits = re.sub(r"[, '_]", "", mantissa)
    return Fraction(digits) * Fraction(10) ** int(exponent[0] if exponent else 0)


def bounded_power(value: Fraction, power: int) -> Fraction:
    """value^power, where that is of a readable size.

    Raises:
        NoNumberError: too long, or 0 to a negative power.
    """
    size = max(len(str(value.numerator)), len(str(value.denominator)))
    if abs(power) * size > MAX_POWER_DIGITS or (value == 0 and power <= 0):
        raise NoNumberError
    return value**power


def exact_root(value: Fraction, root: int) -> Fraction:
    """The root of a value if it is rational.

    Raises:
        NoNumberError: it is not.
    """
    parts = []
    for part in (value.numerator, value.denominator):
        if part < 0 or len(str(part)) > MAX_ROOT_DIGITS:
            raise NoNumberError
        near: int = round(part ** (1 / root)) if root > 2 else math.isqrt(part)
        if near**root != part:
            raise NoNumberError
        parts.append(near)
    return Fraction(*parts)
