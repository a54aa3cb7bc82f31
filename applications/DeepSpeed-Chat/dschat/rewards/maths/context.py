"""The number of a text with the words around it: lead-in words, a quantity, counted words.

Words that change a number are closed classes (`math_words`): what the quantity itself has not taken
in and multiplied out makes the text no number.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

from dschat.rewards.maths import words as words
from dschat.rewards.maths.quantity import QuantityReader
from dschat.rewards.maths.tokens import (
    END,
    NEUTRAL_SIGNS,
    OPERATORS,
    NoNumberError,
    Token,
    is_article,
    is_changing,
    is_number,
    is_operator,
    is_variable,
    tokens_of,
)

_UNIT_OF_AREA = re.compile(r"(?:m|[A-Za-z]{2,})[23]")


def value_of(text: str) -> Fraction:
    """The number of one side of an equation.

    Raises:
        NoNumberError: there is none, there are several, or a word changes it unclearly.
    """
    reader = QuantityReader(tokens_of(text))
    start = reader.find_start()
    reader.at = start
    value = reader.quantity()
    _check_before(reader.tokens[:start])
    behind = reader.tokens[reader.at :]
    if behind and behind[0].lower == "point" and value != 1:
        raise NoNumberError
    _check_behind(behind, reader.tokens[reader.at - 1].kind == "number")
    return value


def has_number(text: str) -> bool:
    """Whether digits or number words stand in a text."""
    reader = QuantityReader(tokens_of(text))
    try:
        reader.find_start()
    except NoNumberError:
        return False
    return True


def check_name(text: str) -> None:
    """Refuse as the name of a number what takes it back or changes it: "not x", "-x".

    Raises:
        NoNumberError: it does.
    """
    for at, token in enumerate(tokens_of(text)):
        if token.lower in words.DENYING or token.lower.endswith("n't"):
            raise NoNumberError
        joins = at > 0 and token.text in OPERATORS
        if token.kind == "sign" and token.text not in NEUTRAL_SIGNS and not joins:
            raise NoNumberError


def check_no_variable(text: str) -> None:
    """Refuse a text that holds a variable.

    Raises:
        NoNumberError: it does.
    """
    if any(map(is_variable, tokens_of(text))):
        raise NoNumberError


def is_calculation(text: str) -> bool:
    """Whether a text is two or more numbers, an operator between any two, without variables."""
    found = tokens_of(text)
    numbers = [at for at, token in enumerate(found) if is_number(token)]
    gaps = [found[one:other] for one, other in itertools.pairwise(numbers)]
    operated = (any(map(is_operator, gap)) for gap in gaps)
    return bool(gaps) and all(operated) and not any(map(is_variable, found))


def _check_before(tokens: list[Token]) -> None:
    """Refuse a lead-in that changes the number behind it."""
    check_neutral(tokens)
    if not tokens:
        return
    last = tokens[-1]
    variable = last.kind == "word" and len(last.text) == 1 and last.lower != "a"
    if variable or last.lower in words.CHANGING_BESIDE or words.MONTHS.fullmatch(last.text):
        raise NoNumberError


def check_neutral(tokens: list[Token]) -> None:
    """Refuse words and signs that change any number they stand before."""
    for token, following in zip(tokens, [*tokens[1:], END], strict=False):
        if token.kind == "sign" and token.text not in NEUTRAL_SIGNS:
            raise NoNumberError
        if is_changing(token) or (token.lower, following.lower) in words.PAIRS:
            raise NoNumberError


def _check_behind(tokens: list[Token], digits: bool) -> None:
    """Refuse words behind a number (that ends in `digits`) that change it, and further numbers."""
    if not tokens:
        return
    _check_first(tokens, digits)
    for at, token in enumerate(tokens):
        following = tokens[at + 1] if at + 1 < len(tokens) else END
        if at and token.lower in words.POWERS and tokens[at - 1].kind == "word":
            continue  # metres squared
        if following.kind == "word" and (
            (token.lower in words.REFUSALS and at == 0) or (token.lower == "than" and at)
        ):
            continue  # 5 wrong answers, 5 more than Amanda
        if (token.kind == "sign" and token.text not in (*NEUTRAL_SIGNS, "!")) or is_number(token):
            raise NoNumberError
        if is_changing(token) or (token.lower, following.lower) in words.PAIRS:
            raise NoNumberError
        if is_variable(token) and not is_article(token, following):
            raise NoNumberError


def _check_first(tokens: list[Token], digits: bool) -> None:
    """Refuse what changes a number that it stands directly behind."""
    first = tokens[0]
    if digits and first.text in ("…", "..", "...", "!"):
        raise NoNumberError  # periodic, a factorial
    if first.text == "/" and (len(tokens) == 1 or tokens[1].kind != "word"):
        raise NoNumberError
    if digits and first.joined and words.ORDINAL_SUFFIX.fullmatch(first.lower):
        first = next((t for t in tokens[1:3] if t.lower != "of"), END)  # 4th of July
    elif first.lower in words.FRACTION_OF_ONE:
        raise NoNumberError  # 3 fifth: neither 3/5 nor fifth graders for certain
    elif digits and _has_foreign_digits(first):
        raise NoNumberError  # 0x1F
    if first.lower in words.CHANGING_BEHIND or words.MONTHS.fullmatch(first.text):
        raise NoNumberError


def _has_foreign_digits(token: Token) -> bool:
    """Whether a word written onto a number has digits, and is no unit of area or volume."""
    stem = token.text.split("^")[0]
    return token.joined and any(map(str.isdigit, stem)) and not _UNIT_OF_AREA.fullmatch(stem)
