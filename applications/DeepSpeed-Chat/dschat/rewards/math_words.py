"""The words and signs beside a number that change its value: closed classes.

Whatever is not listed here is neutral: a lead-in before the number or what was counted behind it.
"""

from __future__ import annotations

import re

UNITS = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split(),
        range(20),
        strict=True,
    )
)
TENS = dict(
    zip(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(),
        range(20, 100, 10),
        strict=True,
    )
)
HUNDRED = 100
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"quadrillion": 10**15, "lakh": 10**5, "crore": 10**7}
# What multiplies a number that stands before it.
MULTIPLIERS = SCALES | {"hundred": HUNDRED, "dozen": 12, "grand": 10**3, "mil": 10**6}
MULTIPLIERS |= {f"{word}s": value for word, value in MULTIPLIERS.items()}
NUMBER_WORDS = UNITS | TENS

# The letters behind the digits: 5k, $5M. In lower case only money has them: 5 m is 5 metres.
LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9, "mn": 10**6, "mln": 10**6}
MONEY_LETTERS = LETTERS | {"m": 10**6, "mm": 10**6, "b": 10**9, "T": 10**12, "t": 10**12}
MONEY_LETTERS |= {"MM": 10**6, "BN": 10**9, "Bn": 10**9}

# "quarter" is a coin as well: 3 quarters are 3/4, but 5 quarters may be 5 coins.
_ORDINALS = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
ORDINALS = {word: below for below, word in enumerate(_ORDINALS, start=3)}
ORDINALS |= {"hundredth": 100, "thousandth": 1000, "millionth": 10**6, "billionth": 10**9}
FRACTION_OF_ONE = ORDINALS | {"half": 2, "quarter": 4}
FRACTIONS_OF_MANY = {f"{word}s": below for word, below in ORDINALS.items()}
FRACTIONS_OF_MANY |= {"halves": 2, "quarters": 4}
ORDINAL_SUFFIX = re.compile(r"st|nd|rd|th")

POWERS = {"squared": 2, "cubed": 3}
ROOTS = {"sqrt": 2, "cbrt": 3, "√": 2, "∛": 3}
CURRENCY_WORDS = frozenset("dollars dollar euros euro pounds usd eur gbp bucks".split())
CURRENCY_SIGNS = "$€£¥₹₽₩¢"

NEGATIVE = frozenset({"minus", "negative"})

# Anywhere beside the number these make it another one, or none.
OPERATIONS = frozenset(
    "plus minus negative multiplied divided modulo mod power powers exponent exponents squared "
    "cubed root roots radical sqrt cbrt log ln exp sin cos tan abs factorial twice thrice double "
    "doubled triple tripled quadruple quadrupled halved half halves doubles triples "
    "permille binary octal hex hexadecimal base".split()
)
COMPARISONS = frozenset("than or nor versus vs almost nearly between exceeds exceeding".split())
NEGATIONS = frozenset("not no never neither none cannot but except nothing unknown".split())
REFUSALS = frozenset("wrong incorrect false untrue impossible undefined".split())
"""Negations, but of what was counted where they stand between it and its number: 5 wrong answers."""
CONSTANTS = frozenset("pi tau phi euler infinity infinite inf nan googol π τ φ ∞".split())
PRODUCTS = frozenset("xy yx xz yz xyz ab bc ac abc mn pq".split())
DENYING = COMPARISONS | NEGATIONS | REFUSALS
CHANGING = OPERATIONS | DENYING | CONSTANTS | PRODUCTS
CHANGING |= frozenset(MULTIPLIERS) | frozenset(FRACTIONS_OF_MANY) | frozenset(NUMBER_WORDS)

# These change the number they stand directly beside: "over 5", "5 over", not "5 left over".
CHANGING_BESIDE = frozenset("over under above below beyond past within times less up from point".split())
CHANGING_BEHIND = frozenset("over under above below beyond remainder gross score tens".split())
PAIRS = frozenset({("at", "least"), ("at", "most"), ("up", "to"), ("out", "of")})

# Single letters behind a number that are units; every other one is a variable or a constant.
UNIT_LETTERS = frozenset("mgshlLJNWVCFtpdc")
LAST_VARIABLE = "\u04ff"
"""The last letter of the scripts that variables are written in: \u500b is a counting word."""
MONTHS = re.compile(
    r"Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sep(?:t|tember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?"
)
