"""Plain text as numbers, words and signs, and which of them change a number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dschat.rewards.maths import words as words

_DIGITS = (
    r"(?:[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+(?! ?/)|(?:'[0-9]{3})+|(?:_[0-9]{3})+)(?![0-9])"
    r"|[0-9]+)"
)
_TOKEN = re.compile(
    rf"(?P<number>(?:{_DIGITS}(?:\.[0-9]*(?!\.))?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}}(?![0-9A-Za-z]))?)"
    r"|(?P<word>[A-Za-z]\.(?:[A-Za-z]\.?)+(?![A-Za-z])|[^\W\d_][^\W_]*(?:'[A-Za-z]+)?"
    r"(?:\^-?[0-9]+)?)"
    r"|(?P<sign>\*\*|\.\.+|…|\S)"
)
NEUTRAL_SIGNS = frozenset([*"',;:.#/&@_", "..", "...", "…"])
OPERATORS = frozenset(["+", "-", "*", "×", "/", "÷", "^", "**", "plus", "minus", "times"])


class NoNumberError(ValueError):
    """The text is not one number."""


@dataclass(frozen=True)
class Token:
    """A number, a word or a sign; `joined`: no blank stands before it."""

    kind: str
    text: str
    joined: bool

    @property
    def lower(self) -> str:
        """The text in lower case; "" for numbers, so that no word equals one."""
        return "" if self.kind == "number" else self.text.lower()


END = Token("end", "", False)


def tokens_of(text: str) -> list[Token]:
    """Tokens of plain text; a hyphen before a letter is a blank ("twenty-five", "3-day")."""
    text = re.sub(r"(?<=[A-Za-z0-9])-(?=[A-Za-z])", " ", text)
    # Currency codes and units are written onto their numbers: US$5, Rs5, 5m^2.
    text = re.sub(r"(?i)\b(?:USD|EUR|GBP|CAD|AUD|INR|JPY|CHF|RS)\.? ?(?=[0-9])", "$", text)
    text = re.sub(r"\b[A-Z]{1,3}\$", "$", text)
    found, end = [], -1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        found.append(Token(kind, match[0], match.start() == end))
        end = match.end()
    return found


def is_operator(token: Token) -> bool:
    """A sign or word that computes: "+", "plus"."""
    return token.text in OPERATORS or token.lower in OPERATORS


def is_changing(token: Token) -> bool:
    """A word that makes another number, or none, of one: "squared", "dozen", "isn't"."""
    return token.lower in words.CHANGING or token.lower.endswith("n't")


def is_number(token: Token) -> bool:
    """Digits, or a word for a number."""
    return token.kind == "number" or token.lower in words.NUMBER_WORDS


def is_variable(token: Token) -> bool:
    """A single letter that is no unit."""
    letter = token.text.split("^")[0]
    return (
        token.kind == "word"
        and len(letter) == 1
        and letter not in words.UNIT_LETTERS
        and letter <= words.LAST_VARIABLE
    )


def is_article(token: Token, following: Token) -> bool:
    """The "a" of "5 a day", the "I" of "5 that I had"."""
    return token.text in ("a", "I") and not token.joined and following.kind == "word"
