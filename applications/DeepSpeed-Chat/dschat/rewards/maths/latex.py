"""Numbers that are no fractions, written in LaTeX: `2\\sqrt{3}` is `\\sqrt{12}`.

math-verify (https://github.com/huggingface/Math-Verify) compares them, and gets a text only where
nothing in it can grow: no powers, no factorials, no calculation left undone.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

from dschat.rewards.maths.context import check_neutral, has_number
from dschat.rewards.maths.tokens import NoNumberError, tokens_of

MAX_LENGTH = 80

_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_HARMLESS_COMMAND = re.compile(r"boxed|[dt]?frac|sqrt|pi|text|mathrm|[$%!,;]")
_TEXT = re.compile(r"\\(?:text|mathrm)\{([A-Za-z .]*)\}")
# What may stay once commands and texts are taken out; a minus only where a number begins.
_REST = re.compile(r"(?:[0-9.,{} $%]|(?:(?<=\{)|^)-)*")
_LONG_DIGITS = re.compile(r"[0-9]{16}")

# Without a time limit of its own (which works in the main thread only) math-verify warns that the
# caller has to guard against slow expressions, as is done here.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def same(first: str, second: str, numbers: tuple[Fraction | None, Fraction | None]) -> bool:
    """math-verify's verdict on two texts of which at least one is no plain number.

    Args:
        numbers: what the texts are as plain numbers. One that is none must be harmless LaTeX.
    """
    texts = [_as_latex(*both) for both in zip((first, second), numbers, strict=True)]
    if any(text is None for text in texts):
        return False
    # Imported here: it brings SymPy, and hardly any answer needs it.
    from math_verify import parse, verify

    try:
        parsed = [parse(f"${text}$", parsing_timeout=None) for text in texts]
        return all(parsed) and bool(verify(*parsed, timeout_seconds=None))
    except Exception:  # whatever SymPy raises on an odd text: it is no answer
        return False


def _as_latex(text: str, number: Fraction | None) -> str | None:
    if number is not None:
        return f"\\frac{{{number.numerator}}}{{{number.denominator}}}"
    text = text.strip().removeprefix("$").removesuffix("$")
    return text if _is_harmless(text) else None


def _is_harmless(text: str) -> bool:
    """Whether a text is a number in LaTeX in which nothing can grow."""
    if "\\" not in text or len(text) > MAX_LENGTH or _LONG_DIGITS.search(text):
        return False
    if not all(map(_is_unit, _TEXT.findall(text))):
        return False
    text = _TEXT.sub("", text)
    if not all(map(_HARMLESS_COMMAND.fullmatch, _COMMAND.findall(text))):
        return False
    return _REST.fullmatch(_COMMAND.sub("", text)) is not None


def _is_unit(text: str) -> bool:
    try:
        check_neutral(tokens_of(text))
    except NoNumberError:
        return False
    return not has_number(text)
