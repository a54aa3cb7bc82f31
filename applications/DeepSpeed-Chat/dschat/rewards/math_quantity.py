"""One number with the words around it, read from plain text: a parser over its tokens.

    side      = lead-in words, quantity, counted words
    quantity  = [sign] [currency] [sign] numeral {multiplier} [% or currency]
    numeral   = digits | digits/digits | digits digits/digits | number words | root of a numeral
    numeral  += "and a half" | "fifths" | "squared" | "^ 3" | "x 10^3" | "point 5"

All values are exact fractions. Words that change a value are closed classes (`math_words`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from dschat.rewards import math_words as words

MAX_POWER_DIGITS = 400

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
_UNIT_OF_AREA = re.compile(r"(?:m|[A-Za-z]{2,})[23]")
_EXPONENT = re.compile(r"[eE]")
_NEUTRAL_SIGNS = frozenset([*"',;:.#/&@_", "..", "...", "…"])
_OPERATORS = frozenset(["+", "-", "*", "×", "/", "÷", "^", "**", "plus", "minus", "times"])
_TEN = 10


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


_END = Token("end", "", False)


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


def value_of(text: str) -> Fraction:
    """The number of one side of an equation.

    Raises:
        NoNumberError: there is none, there are several, or a word changes it unclearly.
    """
    reader = _Reader(tokens_of(text))
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
    reader = _Reader(tokens_of(text))
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
        joins = at > 0 and token.text in _OPERATORS
        if token.kind == "sign" and token.text not in _NEUTRAL_SIGNS and not joins:
            raise NoNumberError


def check_no_variable(text: str) -> None:
    """Refuse a text that holds a variable.

    Raises:
        NoNumberError: it does.
    """
    if any(map(_is_variable, tokens_of(text))):
        raise NoNumberError


def is_calculation(text: str) -> bool:
    """Whether a text is two or more numbers, an operator between any two, without variables."""
    found = tokens_of(text)
    numbers = [at for at, token in enumerate(found) if _is_number(token)]
    gaps = [found[one:other] for one, other in zip(numbers, numbers[1:], strict=False)]
    operated = (any(map(_is_operator, gap)) for gap in gaps)
    return bool(gaps) and all(operated) and not any(map(_is_variable, found))


class _Reader:
    """Reads one quantity; `at` is the next token."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self, ahead: int = 0) -> Token:
        """A token ahead, or an end mark."""
        position = self.at + ahead
        return self.tokens[position] if position < len(self.tokens) else _END

    def take(self, *texts: str) -> bool:
        """Go over the next token if it is one of these, in lower case."""
        if self.peek().lower in texts:
            self.at += 1
            return True
        return False

    def find_start(self) -> int:
        """Where the quantity begins, its sign and currency included."""
        for at, token in enumerate(self.tokens):
            if _is_number(token) or token.lower in words.ROOTS or self._is_bare(at):
                break
        else:
            raise NoNumberError
        if at and self.tokens[at - 1].lower == "of" and self._root_before(at - 1) is not None:
            at = self._root_before(at - 1) or 0
        elif self._root_before(at) is not None:
            at = self._root_before(at) or 0
        while at and self._belongs_before(at):
            at -= 1
        return at

    def _is_bare(self, at: int) -> bool:
        """half, a third, a dozen, million: numbers without a numeral before them."""
        word = self.tokens[at].lower
        if word in ("half", "dozen") or (word in words.MULTIPLIERS and not word.endswith("s")):
            return True
        return word in words.FRACTION_OF_ONE and at > 0 and self.tokens[at - 1].lower == "a"

    def _root_before(self, at: int) -> int | None:
        if at >= 2 and self.tokens[at - 1].lower == "root":
            return at - 2 if self.tokens[at - 2].lower in ("square", "cube") else None
        return None

    def _belongs_before(self, at: int) -> bool:
        token, here = self.tokens[at - 1], self.tokens[at]
        if token.text in ("+", "-"):
            # "Total - 12" may be a dash or a difference.
            word_before = at >= 2 and self.tokens[at - 2].kind == "word"
            spaced = not here.joined
            if at >= 2 and token.joined:
                return self.tokens[at - 2].text in words.CURRENCY_SIGNS or not word_before
            return not (word_before and spaced)
        if token.lower in words.NEGATIVE:
            return True
        if token.lower in ("a", "an"):
            return here.lower in words.MULTIPLIERS or here.lower in words.FRACTION_OF_ONE
        return token.text in words.CURRENCY_SIGNS

    def quantity(self) -> Fraction:
        """A signed number with what multiplies it."""
        negative, money = False, False
        signs = 0
        while True:
            if self.peek().text in ("+", "-") or self.peek().lower in words.NEGATIVE:
                negative = self.peek().text != "+"
                signs += 1
                self.at += 1
            elif not money and self.peek().text in words.CURRENCY_SIGNS and self.peek() != _END:
                money = True
                self.at += 1
            else:
                break
        if signs > 1:
            raise NoNumberError
        value = self.multiplied(self.numeral(), money)
        if self.peek().text == "%" or (
            self.peek().kind == "sign" and self.peek().text in words.CURRENCY_SIGNS + "°"
        ):
            self.at += 1
        return -value if negative else value

    def numeral(self) -> Fraction:
        """A number without its sign."""
        root = words.ROOTS.get(self.peek().lower)
        if root is None and self.peek(1).lower == "root":
            root = 2 if self.peek().lower == "square" else 3
            self.at += 1
        if root is not None:
            self.at += 1
            self.take("of")
            return exact_root(self.numeral(), root)
        if self.take("a", "an"):
            return self._bare()
        if self.peek().kind != "number" and self.peek().lower not in words.NUMBER_WORDS:
            return self._bare()
        value = self._digits() if self.peek().kind == "number" else self._words()
        value = self._decimal_words(value)
        value = self._powers(self._fraction(value))
        return value

    def _bare(self) -> Fraction:
        word = self.peek().lower
        self.at += 1
        if word in words.MULTIPLIERS and not word.endswith("s"):
            return Fraction(words.MULTIPLIERS[word])
        if word not in words.FRACTION_OF_ONE:
            raise NoNumberError
        value = Fraction(1, words.FRACTION_OF_ONE[word])
        for filler in ("of", "a"):  # half (of) a million
            ahead = 1 if self.peek().lower == filler else 0
            nearer = self.peek(ahead).lower
            if ahead and (nearer in words.MULTIPLIERS or nearer == "a"):
                self.at += 1
        return value

    def _digits(self) -> Fraction:
        above = number(self._next_number())
        if self.peek().text == "/" and self.peek(1).kind == "number":
            return above / self._below()
        if self.peek().kind == "number" and self.peek(1).text == "/" and not self.peek().joined:
            return above + self._proper(above)
        return above

    def _below(self) -> Fraction:
        self.at += 1
        below = number(self._next_number())
        if below == 0 or self.peek().text == "/" and self.peek(1).kind == "number":
            raise NoNumberError
        if self.peek().joined and words.ORDINAL_SUFFIX.match(self.peek().lower):
            self.at += 1  # 2/3rds
        return below

    def _proper(self, whole: Fraction) -> Fraction:
        """The fraction of a mixed number."""
        part = number(self._next_number())
        value = part / self._below() if self.peek().text == "/" else None
        if value is None or whole.denominator != 1:
            raise NoNumberError
        return self._checked_part(value)

    def _next_number(self) -> str:
        token = self.peek()
        if token.kind != "number":
            raise NoNumberError
        self.at += 1
        return token.text

    def _words(self) -> Fraction:
        """two hundred and five thousand and six."""
        total, last = 0, math.inf
        while True:
            group = self._below_thousand()
            scale = words.SCALES.get(self.peek().lower)
            if scale is None:
                return Fraction(total + group)
            if scale >= last:
                raise NoNumberError
            self.at += 1
            total, last = total + group * scale, scale
            ahead = 1 if self.peek().lower == "and" else 0
            if self.peek(ahead).lower not in words.NUMBER_WORDS:
                return Fraction(total)
            if self.peek(ahead + 1).lower in words.FRACTION_OF_ONE:
                return Fraction(total)
            self.at += ahead

    def _below_thousand(self) -> int:
        value = self._below_hundred()
        if not self.take("hundred"):
            return value
        value *= words.HUNDRED
        ahead = 1 if self.peek().lower == "and" else 0
        follows = self.peek(ahead).lower in words.NUMBER_WORDS
        fraction = self.peek(ahead + 1).lower
        if not follows or fraction in {**words.FRACTION_OF_ONE, **words.FRACTIONS_OF_MANY}:
            return value
        self.at += ahead
        return value + self._below_hundred()

    def _below_hundred(self) -> int:
        word = self.peek().lower
        if word not in words.NUMBER_WORDS:
            raise NoNumberError
        self.at += 1
        value = words.NUMBER_WORDS[word]
        unit = words.UNITS.get(self.peek().lower, 0)
        if word in words.TENS and 1 <= unit <= 9:
            self.at += 1
            value += unit
        return value

    def _decimal_words(self, value: Fraction) -> Fraction:
        """five point three one; 5 point 3."""
        digit = self.peek(1)
        if self.peek().lower != "point" or not (
            digit.kind == "number" or words.UNITS.get(digit.lower, 10) < 10
        ):
            return value
        self.at += 1
        if digit.kind == "number":
            digits = self._next_number()
        else:
            digits = ""
            while words.UNITS.get(self.peek().lower, 10) < 10:
                digits += str(words.UNITS[self.peek().lower])
                self.at += 1
        if not digits.isdecimal() or value.denominator != 1:
            raise NoNumberError
        return value + Fraction(int(digits), 10 ** len(digits))

    def _fraction(self, value: Fraction) -> Fraction:
        """3 fifths, 1 third, two and a half, 2 and 3/4, 2 and three quarters."""
        word = self.peek().lower
        if word in words.FRACTIONS_OF_MANY or (value == 1 and word in words.FRACTION_OF_ONE):
            below = words.FRACTIONS_OF_MANY.get(word) or words.FRACTION_OF_ONE[word]
            self.at += 1
            if value.denominator != 1 or (below == 4 and value > 3):
                raise NoNumberError
            return value / below
        if self.peek().kind == "number" and self.peek(1).joined:
            suffix = self.peek(1).lower  # 3 5ths
            if words.ORDINAL_SUFFIX.match(suffix) and suffix.endswith("s"):
                below = number(self._next_number())
                self.at += 1
                if below == 0:
                    raise NoNumberError
                return value / below
        if self.peek().lower == "and" and value.denominator == 1:
            return value + self._and_fraction()
        return value

    def _and_fraction(self) -> Fraction:
        """The fraction behind "and", or 0 where none follows."""
        begin = self.at
        self.at += 1
        part = Fraction(1)
        try:
            if self.peek().kind == "number" and self.peek(1).text == "/":
                return self._checked_part(number(self._next_number()) / self._below())
            if not self.take("a", "an", "one"):
                part = Fraction(self._below_hundred())
        except NoNumberError:
            self.at = begin
            return Fraction(0)
        word = self.peek().lower
        below = words.FRACTIONS_OF_MANY.get(word)
        if part == 1:
            below = words.FRACTION_OF_ONE.get(word)
        if below is None:
            self.at = begin
            return Fraction(0)
        self.at += 1
        return self._checked_part(part / below)

    def _checked_part(self, part: Fraction) -> Fraction:
        if not 0 < part < 1:
            raise NoNumberError
        return part

    def _powers(self, value: Fraction) -> Fraction:
        power = words.POWERS.get(self.peek().lower)
        if power is not None:
            self.at += 1
            return bounded_power(value, power)
        if self.peek().text in ("^", "**"):
            self.at += 1
            value = bounded_power(value, self._exponent())
        if self._is_scientific():
            self.at += 3
            return value * bounded_power(Fraction(_TEN), self._exponent())
        return value

    def _is_scientific(self) -> bool:
        """Whether `x 10^` follows."""
        return (
            (self.peek().text in ("×", "*") or self.peek().lower == "times")
            and self.peek(1).text == str(_TEN)
            and self.peek(2).text in ("^", "**")
        )

    def _exponent(self) -> int:
        sign = -1 if self.peek().text == "-" else 1
        self.take("-", "+")
        exponent = number(self._next_number())
        if exponent.denominator != 1:
            raise NoNumberError
        return sign * int(exponent)

    def multiplied(self, value: Fraction, money: bool) -> Fraction:
        """Times million, dozen; times the letter of 5k and $5M; "and a half" behind a scale."""
        money = money or self.peek(1).lower in words.CURRENCY_WORDS
        letters = words.MONEY_LETTERS if money else words.LETTERS
        letter = letters.get(self.peek().text) if self.peek().kind == "word" else None
        if letter is not None and (self.peek().joined or self.peek().text in words.LETTERS):
            self.at += 1
            return value * letter
        while self.peek().lower in words.MULTIPLIERS:
            value *= words.MULTIPLIERS[self.peek().lower]
            self.at += 1
        return value


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
    for token, following in zip(tokens, [*tokens[1:], _END], strict=False):
        if token.kind == "sign" and token.text not in _NEUTRAL_SIGNS:
            raise NoNumberError
        if _is_changing(token) or (token.lower, following.lower) in words.PAIRS:
            raise NoNumberError


def _check_behind(tokens: list[Token], digits: bool) -> None:
    """Refuse words behind a number (that ends in `digits`) that change it, and further numbers."""
    if not tokens:
        return
    _check_first(tokens, digits)
    for at, token in enumerate(tokens):
        following = tokens[at + 1] if at + 1 < len(tokens) else _END
        if at and token.lower in words.POWERS and tokens[at - 1].kind == "word":
            continue  # metres squared
        if following.kind == "word" and (
            (token.lower in words.REFUSALS and at == 0) or token.lower == "than"
        ):
            continue  # 5 wrong answers, 5 more than Amanda
        if token.kind == "sign" and token.text not in (*_NEUTRAL_SIGNS, "!") or _is_number(token):
            raise NoNumberError
        if _is_changing(token) or (token.lower, following.lower) in words.PAIRS:
            raise NoNumberError
        if _is_variable(token) and not _is_article(token, following):
            raise NoNumberError


def _check_first(tokens: list[Token], digits: bool) -> None:
    """Refuse what changes a number that it stands directly behind."""
    first = tokens[0]
    if digits and first.text in ("…", "..", "...", "!"):
        raise NoNumberError  # periodic, a factorial
    if first.text == "/" and (len(tokens) == 1 or tokens[1].kind != "word"):
        raise NoNumberError
    if digits and first.joined and words.ORDINAL_SUFFIX.fullmatch(first.lower):
        first = next((t for t in tokens[1:3] if t.lower != "of"), _END)  # 4th of July
    elif first.lower in words.FRACTION_OF_ONE:
        raise NoNumberError  # 3 fifth: neither 3/5 nor fifth graders for certain
    elif digits and first.joined and any(map(str.isdigit, first.text.split("^")[0])):
        if not _UNIT_OF_AREA.fullmatch(first.text):
            raise NoNumberError  # 0x1F
    if first.lower in words.CHANGING_BEHIND or words.MONTHS.fullmatch(first.text):
        raise NoNumberError


def _is_operator(token: Token) -> bool:
    return token.text in _OPERATORS or token.lower in _OPERATORS


def _is_changing(token: Token) -> bool:
    return token.lower in words.CHANGING or token.lower.endswith("n't")


def _is_number(token: Token) -> bool:
    return token.kind == "number" or token.lower in words.NUMBER_WORDS


def _is_variable(token: Token) -> bool:
    """A single letter that is no unit."""
    letter = token.text.split("^")[0]
    return (
        token.kind == "word"
        and len(letter) == 1
        and letter not in words.UNIT_LETTERS
        and letter <= words.LAST_VARIABLE
    )


def _is_article(token: Token, following: Token) -> bool:
    """The "a" of "5 a day", the "I" of "5 that I had"."""
    return token.text in ("a", "I") and not token.joined and following.kind == "word"


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
        if part < 0 or len(str(part)) > 30:
            raise NoNumberError
        near = round(part ** (1 / root)) if root > 2 else math.isqrt(part)
        if near**root != part:
            raise NoNumberError
        parts.append(near)
    return Fraction(*parts)
