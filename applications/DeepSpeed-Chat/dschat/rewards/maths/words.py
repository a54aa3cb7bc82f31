"""The words and signs beside a number that change its value: closed classes.

Whatever is not listed here is neutral: a lead-in before the number or what was counted behind it.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _numbered(text: str, first: int, step: int = 1) -> dict[str, int]:
    """The words of a text with numbers that go up."""
    return {word: first + step * place for place, word in enumerate(text.split())}


UNITS = _numbered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen",
    first=0,
)
TENS = _numbered("twenty thirty forty fifty sixty seventy eighty ninety", first=20, step=10)
NUMBER_WORDS = UNITS | TENS
HUNDRED = 100
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"quadrillion": 10**15, "lakh": 10**5, "crore": 10**7}
# What multiplies a number that stands before it.
MULTIPLIERS = SCALES | {"hundred": HUNDRED, "dozen": 12, "grand": 10**3, "mil": 10**6}
MULTIPLIERS |= {f"{word}s": value for word, value in MULTIPLIERS.items()}

# The letters behind the digits: 5k, $5M. In lower case only money has them: 5 m is 5 metres.
LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9, "mn": 10**6, "mln": 10**6}
MONEY_LETTERS = LETTERS | {"m": 10**6, "mm": 10**6, "b": 10**9, "T": 10**12, "t": 10**12}
MONEY_LETTERS |= {"MM": 10**6, "BN": 10**9, "Bn": 10**9}

ORDINALS = _numbered(
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    first=3,
)
ORDINALS |= {"hundredth": 100, "thousandth": 1000, "millionth": 10**6, "billionth": 10**9}
FRACTION_OF_ONE = ORDINALS | {"half": 2, "quarter": 4}
FRACTIONS_OF_MANY = {f"{word}s": below for word, below in ORDINALS.items()}
FRACTIONS_OF_MANY |= {"halves": 2, "quarters": 4}
# "quarter" is a coin as well: 3 quarters are 3/4, but 5 quarters may be 5 coins.
MOST_QUARTERS = 3
ORDINAL_SUFFIX = re.compile(r"st|nd|rd|th")

POWERS = {"squared": 2, "cubed": 3}
ROOTS = {"sqrt": 2, "cbrt": 3, "√": 2, "∛": 3}
CURRENCY_WORDS = _words("dollars dollar euros euro pounds usd eur gbp bucks")
CURRENCY_SIGNS = "$€£¥₹₽₩¢"

NEGATIVE = _words("minus negative")

# Anywhere beside the number these make it another one, or none.
OPERATIONS = _words(
    "plus minus negative multiplied divided modulo mod power powers exponent exponents squared "
    "cubed root roots radical sqrt cbrt log ln exp sin cos tan abs factorial twice thrice double "
    "doubled triple tripled quadruple quadrupled halved half halves doubles triples permille "
    "binary octal hex hexadecimal base"
)
COMPARISONS = _words("than or nor versus vs almost nearly between exceeds exceeding")
NEGATIONS = _words("not no never neither none cannot but except nothing unknown")
# Negations, but of what was counted where they stand between it and its number: 5 wrong answers.
REFUSALS = _words("wrong incorrect false untrue impossible undefined")
CONSTANTS = _words("pi tau phi euler infinity infinite inf nan googol π τ φ ∞")
PRODUCTS = _words("xy yx xz yz xyz ab bc ac abc mn pq")
DENYING = COMPARISONS | NEGATIONS | REFUSALS
CHANGING = OPERATIONS | DENYING | CONSTANTS | PRODUCTS
CHANGING |= frozenset(MULTIPLIERS) | frozenset(FRACTIONS_OF_MANY) | frozenset(NUMBER_WORDS)

# These change the number they stand directly beside: "over 5", "5 over", not "5 left over".
CHANGING_BESIDE = _words("over under above below beyond past within times less up from point")
CHANGING_BEHIND = _words("over under above below beyond remainder gross score tens")
PAIRS = frozenset({("at", "least"), ("at", "most"), ("up", "to"), ("out", "of")})

# Single letters behind a number that are units; every other one is a variable or a constant.
UNIT_LETTERS = frozenset("mgshlLJNWVCFtpdc")
# The last letter of the scripts that variables are written in: a CJK sign is a counting word.
LAST_VARIABLE = "\u04ff"
MONTHS = re.compile(
    r"Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sep(?:t|tember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?"
)
