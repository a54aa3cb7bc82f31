"""Are two answers the same number? `1,000`, `1000.0` and `$1000` are; never evaluates a text.

Plain spellings are read here, exactly and in linear time. math-verify
(https://github.com/huggingface/Math-Verify) reads LaTeX, and gets a text only where nothing in it
can grow: no powers, no factorials, no calculation left undone (`6 \\times 7` is no answer).
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

MAX_LENGTH = 200
"""Characters of a number with its unit; a longer text is no number."""

MAX_LATEX_LENGTH = 80

_LOOK_ALIKES = str.maketrans(
    {
        "\u2212": "-",  # minus sign
        "\u2013": "-",  # en dash
        "\ufe63": "-",
        "\uff0d": "-",
        "\u00a0": " ",
        "\u2009": " ",  # thin space
        "\u202f": " ",  # narrow space, which groups digits
        "\uff04": "$",
        "\uff05": "%",
        "\u2044": "/",
    }
)
_CURRENCY = "[$€£¥]"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) ?{_CURRENCY}? ?(?P<sign_behind>-?)"
    rf"(?:(?P<whole>[0-9]{{1,15}}) (?P<part>[0-9]{{1,15}}) ?/ ?(?P<parts>[0-9]{{1,15}})"
    rf"|(?P<above>{_DIGITS}) ?/ ?(?P<below>{_DIGITS})"
    rf"|(?P<decimal>{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?P<exponent>[+-]?[0-9]{{1,3}}))?)"
    rf" ?(?:%|{_CURRENCY})?(?P<unit>[ /-]?[A-Za-z°][A-Za-z°.²³/ -]*)?"
)
_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")

# Words behind a number that change it: "2 million" is not 2, "5 and a half" is not 5.
_NOT_A_UNIT = re.compile(
    r"\b(?:and|or|to|times|plus|minus|over|point|by|x|e|k|hundreds?|thousands?|millions?|billions?"
    r"|trillions?|dozens?|half|halves|thirds?)\b",
    re.IGNORECASE,
)
_MAX_UNIT_WORDS = 4

_LATEX_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_HARMLESS_COMMAND = re.compile(r"boxed|[dt]?frac|sqrt|pi|text|mathrm|[$%!,;]")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm)\{([A-Za-z .]*)\}")
# What may stay once commands and texts are taken out; a minus only where a number begins.
_LATEX_REST = re.compile(r"(?:[0-9.,{} $%]|(?:(?<=\{)|^)-)*")
_LONG_DIGITS = re.compile(r"[0-9]{16}")

# Without a time limit of its own (which works in the main thread only) math-verify warns that the
# caller has to guard against slow expressions, as is done here.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are the same number, or the same text if neither is a number.

    Numbers are compared exactly: 1/2 is 0.5, and 0.33 is not 1/3. Currency signs, per cent signs
    and units do not count (50% is 50), nor does a full stop at the end. Never raises, whatever
    the texts; a text of any length takes linear time.
    """
    first, second = _tidy(a), _tidy(b)
    if first == second:
        return bool(first)
    numbers = read_number(first), read_number(second)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1]
    latex = [_is_harmless_latex(text) for text in (first, second)]
    readable = [n is not None or tex for n, tex in zip(numbers, latex, strict=True)]
    if not all(readable):
        return False
    return _verify(_as_latex(first, numbers[0]), _as_latex(second, numbers[1]))


def read_number(text: str) -> Fraction | None:
    """The number that a text consists of, apart from signs of currency, per cent and a unit.

    Read are: thousands grouped by commas or blanks, decimals, scientific notation, fractions (3/4)
    and mixed numbers (1 3/4). None for anything else, such as a calculation or a range.
    """
    text = _tidy(text)
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None or not _is_unit(match["unit"] or ""):
        return None
    if match["sign"] and match["sign_behind"]:
        return None
    value = _value(match)
    if value is None:
        return None
    return -value if "-" in (match["sign"], match["sign_behind"]) else value


def is_integer(text: str) -> bool:
    """Whether a text is an integer written as one: 1000, -3 or 1,000, but not 1000.0 or $5."""
    text = text.strip()
    return len(text) <= MAX_LENGTH and _INTEGER.fullmatch(text.translate(_LOOK_ALIKES)) is not None


def _tidy(text: str) -> str:
    """Without blanks and emphasis around it and the full stop behind it, in ASCII signs."""
    text = text.strip()
    if len(text) <= 2 * MAX_LENGTH:
        text = text.translate(_LOOK_ALIKES).strip().strip("*").strip()
    return text.removesuffix(".").rstrip()


def _value(match: re.Match[str]) -> Fraction | None:
    if match["whole"] is not None:
        below = int(match["parts"])
        return int(match["whole"]) + Fraction(int(match["part"]), below) if below else None
    if match["above"] is not None:
        above, below = (int(_ungrouped(match[name])) for name in ("above", "below"))
        return Fraction(above, below) if below else None
    # At most MAX_LENGTH digits and an exponent of three: at most some thousand digits.
    return Fraction(_ungrouped(match["decimal"])) * Fraction(10) ** int(match["exponent"] or 0)


def _ungrouped(digits: str) -> str:
    return digits.replace(",", "").replace(" ", "")


def _is_unit(text: str) -> bool:
    return len(text.split()) <= _MAX_UNIT_WORDS and _NOT_A_UNIT.search(text) is None


def _is_harmless_latex(text: str) -> bool:
    """Whether a text is a number in LaTeX in which nothing can grow."""
    if "\\" not in text or len(text) > MAX_LATEX_LENGTH or _LONG_DIGITS.search(text):
        return False
    if not all(map(_is_unit, _LATEX_TEXT.findall(text))):
        return False
    text = _LATEX_TEXT.sub("", text)
    if not all(map(_HARMLESS_COMMAND.fullmatch, _LATEX_COMMAND.findall(text))):
        return False
    return _LATEX_REST.fullmatch(_LATEX_COMMAND.sub("", text)) is not None


def _as_latex(text: str, number: Fraction | None) -> str:
    if number is None:
        return text
    return f"\\frac{{{number.numerator}}}{{{number.denominator}}}"


def _verify(first: str, second: str) -> bool:
    """math-verify's verdict on two harmless texts."""
    # Imported here: it brings SymPy, and hardly any answer needs it.
    from math_verify import parse, verify

    try:
        parsed = [parse(f"${text}$", parsing_timeout=None) for text in (first, second)]
        return all(parsed) and bool(verify(*parsed, timeout_seconds=None))
    except Exception:  # whatever SymPy raises on an odd text: it is no answer
        return False
