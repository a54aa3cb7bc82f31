"""A quantity in words or digits, read from tokens as an exact fraction.

quantity  = [sign] [currency] [sign] numeral {multiplier} [% or currency]
numeral   = digits | digits/digits | digits digits/digits | number words | root of a numeral
numeral  += "and a half" | "fifths" | "squared" | "^ 3" | "x 10^3" | "point 5"
"""

from __future__ import annotations

from fractions import Fraction

from dschat.rewards.maths import words as words
from dschat.rewards.maths.tokens import END, NoNumberError, Token, is_number
from dschat.rewards.maths.values import bounded_power, exact_root, number

_TEN = 10


class QuantityReader:
    """Reads one quantity; `at` is the next token."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self, ahead: int = 0) -> Token:
        """A token ahead, or an end mark."""
        position = self.at + ahead
        return self.tokens[position] if position < len(self.tokens) else END

    def take(self, *texts: str) -> bool:
        """Go over the next token if it is one of these, in lower case."""
        if self.peek().lower in texts:
            self.at += 1
            return True
        return False

    def find_start(self) -> int:
        """Where the quantity begins, its sign and currency included."""
        for at, token in enumerate(self.tokens):
            if is_number(token) or token.lower in words.ROOTS or self._is_bare(at):
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
            elif not money and self.peek().text in words.CURRENCY_SIGNS and self.peek() != END:
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
        if below == 0 or (self.peek().text == "/" and self.peek(1).kind == "number"):
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
        total, last = 0, max(words.SCALES.values()) + 1
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
            if value.denominator != 1 or (below == 4 and value > words.MOST_QUARTERS):
                raise NoNumberError
            return value / below
        if self.peek().kind == "number" and self.peek(1).joined:
            suffix = self.peek(1).lower  # 3 5ths
            if words.ORDINAL_SUFFIX.match(suffix) and suffix.endswith("s"):
                parts = number(self._next_number())
                self.at += 1
                if parts == 0:
                    raise NoNumberError
                return value / parts
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
