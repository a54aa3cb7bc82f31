"""Spellings of numbers with the verdict that follows from what they say, grouped by the reason.

Worked out by hand before the reader was written. A gold answer stands before the texts that name
the same number (`RIGHT`) or do not (`WRONG`).
"""

from __future__ import annotations

# fmt: off
RIGHT: dict[str, dict[str, list[str]]] = {
    "digits are grouped, padded and styled in many ways": {
        "12": ["12", " 12 ", "012", "+12", "12.0", "12.", "12.00", "１２", "𝟏𝟐", "12\u200b"],
        "1000": ["1,000", "1 000", "1\u202f000", "1'000", "1_000", "1,000.00", "1000."],
        "1234567": ["1,234,567", "1 234 567", "1'234'567"],
        "0": ["0", "-0", "0.0", "zero", "$0", "0%"],
        "0.5": [".5", "0.50", "1/2", "½", "one half", "a half", "half", "50/100", "5e-1"],
    },
    "a minus sign has several characters, words and places": {
        "-5": ["-5", "\u22125", "\u20135", "- 5", "(-5)", "-5.0", "negative 5", "minus five"],
        "-7": ["-$7", "$-7", "-7 degrees", "x = -7", "-7°C", "-14/2", "minus 7", "-seven"],
        "-2.5": ["-2 1/2", "-5/2", r"-\frac{5}{2}", r"\frac{-5}{2}", "-2½", "-2.50"],
    },
    "money, per cent and units say what was counted": {
        "12": [
            "$12", "US$12", "12 USD", "USD 12", "€12", "12€", "£12", "12 pounds", "¥12", "₹12",
            "Rs. 12", "12$", r"\$12", "12 dollars", "$12.00", "$ 12", "12%", "12 %", "12 percent",
            "12 per cent", r"12\%", "12 cents", "12¢", "12 kg", "12kg", "12 km/h", "12 m/s^2",
            "12 m²", "12 m^2", "12 cm3", "12 square feet", "12 feet squared", "12°", "12 degrees",
            "12°C", r"12^\circ", "12 miles per hour", "$12/hour", "12 a day", "12-day", "12 p.m.",
            "12 pm", "12 hours.", "12 apples", "12 boxes of cookies", "12 more", "12 left over",
            "12 points", "12 times", "12 graders", "12 eggs!", "12 people in July",
            "12 wrong answers", "12th", "12 m", "12 g", "12 L", "12 apples and pears", "12 seconds",
            "12 pairs", "A$12", "12 times as many",
        ],
        "1": ["1 point", "1 second", "1 apple", "one", "one apple"],
        "5": ["5 times", "five times", "5 points", "5th", "five percent", "5 to go", "5个"],
    },
    "emphasis, quotes, brackets, tags and maths delimiters are wrappers": {
        "42": [
            "**42**", "**42** apples", "*42*", "__42__", "`42`", '"42"', "'42'", "\u201c42\u201d",
            "(42)", "[42]", "{42}", "$42$", "$$42$$", r"\(42\)", r"\[42\]", r"\( 42 \)",
            r"\boxed{42}", r"$\boxed{42}$", r"\boxed{42}.", r"\text{42}", r"\mathbf{42}",
            r"\boxed{\text{42}}", r"42\text{ apples}", r"\text{42 apples}", "#### 42", "# 42",
            "<answer>42</answer>", "<b>42</b>", "**$42**", "***42***", r"\fbox{42}",
            r"\left(42\right)", r"42\,", r"42\;", r"\displaystyle 42", "• 42", "\ufeff42",
        ],
        "1234": [r"1{,}234", r"\$1{,}234", r"$1{,}234$"],
    },
    "lead-ins do not change a number": {
        "42": [
            "Answer: 42", "Answer: 42.", "answer = 42", "The answer is 42", "the answer is: 42.",
            "Final answer: 42", "**Final Answer:** 42", "So 42", "Therefore, 42", "It is 42.",
            "She has 42 apples", "Total: $42", "The total is 42 dollars.", "There are 42 of them.",
            "x = 42", "x=42", "$x = 42$", r"\(x = 42\)", "= 42", "n: 42", "about 42", "~42", "≈ 42",
            "approximately 42", "I have 42", "a total of 42", "(A) 42", "A) 42", "- Answer: 42",
            "the remainder is 42", "the sum is 42", "42, I think", "The answer is 42!", "∴ 42",
            "42. That is all.", "Thus the answer is **42**.", "x is 42", "y = $42", "#42",
        ],
    },
    "an equation's last side is its answer": {
        "7": [
            "3 + 4 = 7", "x = 3 + 4 = 7", "14/2 = 7", "7 = x", "3+4=7 apples", "7 = 7.0",
            "10 - 3 = 7", r"3 \times 2 + 1 = 7", "x + y = 7", "Total = 3 + 4 = $7",
        ],
    },
    "a number may be said twice": {
        "12": [
            "12 (twelve)", "twelve (12)", "12 apples (a dozen)", "12 (rounded)", "12 (3 x 4)",
            "12 (= 3 × 4)", "(12)", "12 (12.00)",
        ],
    },
    "number words": {
        "12": ["twelve", "Twelve", "twelve apples", "TWELVE", "a dozen", "dozen", "one dozen"],
        "25": ["twenty-five", "twenty five", "Twenty-Five dollars"],
        "100": ["one hundred", "a hundred", "hundred"],
        "512": ["five hundred twelve", "five hundred and twelve"],
        "1200": ["twelve hundred", "one thousand two hundred", "1.2 thousand", "1.2k"],
        "1234": [
            "one thousand two hundred thirty-four", "one thousand two hundred and thirty four",
        ],
        "1000000": ["one million", "a million", "1 million", "1M", "$1M", "$1m", "1,000,000"],
        "205006": ["two hundred and five thousand and six", "205,006"],
        "3000002": ["three million two", "three million and two"],
    },
    "multipliers are multiplied out": {
        "5000000": [
            "5 million", "five million", "$5M", "$5 million", "5M", "5 million dollars",
            "5.0 million", "5 × 10^6", "5e6", "5E+6", "$5mn",
        ],
        "2500": ["2.5k", "2.5K", "$2.5k", "2.5 thousand", "25 hundred", "2 1/2 thousand"],
        "60": ["5 dozen", "five dozen eggs"],
        "24": ["2 dozen", "two dozens"],
        "500000": ["half a million", "half of a million", "5 hundred thousand", "0.5 million"],
        "6": ["half a dozen", "half dozen"],
        "7000000000": ["7 billion", "$7B", "$7bn", "7B", "seven billion"],
        "1500000": ["one and a half million", "1.5 million", "1 1/2 million"],
    },
    "fractions": {
        "3/5": [
            "3 fifths", "three fifths", "three-fifths", "0.6", "3/5", "3 5ths", "3/5ths",
            r"\frac{3}{5}", r"\frac35", r"\dfrac{3}{5}", r"$\tfrac{3}{5}$", "3/5 of the cake",
        ],
        "1/3": ["a third", "one third", "1 third", "⅓", "1/3rd", "2/6", r"\frac{1}{3}"],
        "0.75": ["3/4", "¾", "three quarters", "3 quarters", "3/4 cup", "75/100", "3⁄4"],
        "0.25": ["a quarter", "one quarter", "1/4", "one fourth", "a quarter of a cup"],
        "2.5": [
            "2 1/2", "2½", "2 ½", "5/2", "two and a half", "2 and a half", "2 and 1/2",
            r"2\frac{1}{2}", r"2 \frac{1}{2}", "2 1/2 cups", "two and one half", "5 halves",
            "two and a half hours", "2.50", "+2.5",
        ],
        "2.75": ["2 and three quarters", "two and three-quarters", "2 3/4", "2¾"],
        "5.3": ["five point three", "5 point 3", "5.3", "53/10"],
        "0.05": ["five hundredths", "5 hundredths", "5/100"],
    },
    "powers and roots that are clear": {
        "4": [
            "2 squared", "2^2", "2²", "2**2", "two squared", "square root of 16", "√16", "sqrt(16)",
            "sqrt 16", r"\sqrt{16}", r"2^{2}", "√(16)", "the square root of 16",
        ],
        "8": ["2 cubed", "2^3", "2³", "cube root of 512", "2^(3)"],
        "1200": [
            "1.2 x 10^3", "1.2 × 10^3", "1.2 × 10³", "1.2*10^3", "1.2·10^3", "1.2e3", "1.2E3",
            r"1.2 \times 10^3", r"1.2 \times 10^{3}", r"1.2 \cdot 10^{3}", "1.2 x 10**3",
            r"$1.2 \times 10^{3}$", "1.2x10^3",
        ],
        "0.001": ["1e-3", "10^-3", "10^{-3}", "1 x 10^-3", "1/1000", "10⁻³", "one thousandth"],
        "1000": ["10^3", "10³"],
    },
}
# fmt: on

# fmt: off
WRONG: dict[str, dict[str, list[str]]] = {
    "another number": {
        "12": ["13", "-12", "1.2", "120", "12.5", "0.12", "1200%", "12e1", "thirteen", "$13"],
        "0.5": ["50%", "5", "1/3"],
        "1/3": ["0.33", "0.333", "33%"],
    },
    "a fraction, power or multiplier behind a number changes it": {
        "3": [
            "3 fifths", "3 quarters", "3 halves", "3/5", "3 and a half", "3½", "3 1/2", "3 5ths",
            "3 hundredths", "3 fifth", "three fourths",
        ],
        "2": [
            "2 squared", "2 cubed", "2^3", "2²", "2 to the power of 3", "2**3", r"2^{3}",
            "2 million", "2 dozen", "2 hundred", "2k", "$2M", "2 thousand", "2 tens of thousands",
            r"2 \text{ million}", "2 billion", "2 x 10^3", "2e3", "2 halves of", "2 doubled",
        ],
        "5": [
            "$5M", "$5k", "$5 million", "5 dozen", "five hundred", "5 trillion", "half of 5",
            "twice 5", "double 5", "5 halved", "5 tripled",
        ],
    },
    "roots and constants make no plain number": {
        "5": [
            "5 sqrt", "sqrt 5", "√5", "square root of 5", r"\sqrt{5}", "5√2", r"5\sqrt{2}",
            "5 square root of 2", "log 5", "5 radical 2",
        ],
        "2": ["2 pi", "2π", r"2\pi", "2pi", "2e", "2 e", "2i", "pi/2", "2 tau", "2∞", "2τ"],
    },
    "a variable makes an expression": {
        "5": ["5x", "5 x", "5y", "5n + 1", "x + 5", "5 - x", "5xy", "5a", "5x = 10", "x5", "x 5"],
    },
    "operators leave a calculation undone": {
        "42": [
            "6*7", "6 x 7", "6 × 7", r"6 \times 7", "40 + 2", "50 - 8", "84 / 2 / 1", "6 times 7",
            "84 divided by 2", "40 plus 2", "50 minus 8", "6(7)", "(6)(7)",
        ],
        "7": [
            "7 remainder three", "7 remainder 3", "7 R 3", "7 mod 3", "7 plus", "7 -", "7 +", "7±1",
            "±7", "7 over 2", "7!", "|7|", "7 + x", "7 multiplied by 2",
        ],
        "25": ["5(5)", "5 * 5", "5 x 5"],
        "5": ["5(5)", "5 5", "5 * 1", "1 x 5"],
        "2": ["1 1", "2-1/2"],
    },
    "comparisons name another number": {
        "3": [
            "3 less than ten", "3 more than ten", "more than 3", "less than 3", "fewer than 3",
            "at least 3", "at most 3", "no more than 3", "over 3", "under 3", "above 3", "> 3",
            "< 3", "≥ 3", "≤3", "x > 3", "x ≠ 3", "!= 3", "3 or more", "3 or less", "3 or fewer",
            "up to 3", "3 at least", "almost 3", "nearly 3", "3+", "between 3 and 4", "below 3",
            "beyond 3", "x >= 3", "3 <", "within 3",
        ],
    },
    "negations take it back": {
        "5": [
            "5 is not the answer", "not 5", "isn't 5", "never 5", "5 is wrong", "5 is incorrect",
            "it can't be 5", "x is not 5", "neither 5", "5, no", "all but 5", "not x = 5",
            "cannot be 5", "not (5)", "5 isn't right",
        ],
    },
    "several numbers are no answer": {
        "12": [
            "12 or 13", "12-13", "12 to 13", "11-12", "12, 13", "11, 12", "12 and 13", "12;13",
            "12 apples, 13 pears", "12 (13)", "12 = 13", "12 out of 15", "12 of 15", "12:15",
            "12 per 100", "12 13", "x = 12, y = 13", "x = 12 or x = 13", "(12, 13)", "[12, 13]",
            "12 – 13", "from 12", "12 / 13", "twelve or thirteen", "12 twelve", "12% of 50",
            "5 dollars and 12 cents", "12 feet 3 inches", "12 & 13", "12.13.14", "1, 2",
        ],
        "3": [
            "3:4", "3 : 4", "3-4", "3 to 4", "3:30", "3:00", "3 versus 4", "ratio 3:4", "3:1",
            "3 by 4", "3 x 4",
        ],
    },
    "dates are no numbers": {
        "4": ["July 4", "4 July", "4th of July", "July 4, 2020", "4/7/2020", "2020-07-04", "May 4"],
    },
    "unclear spellings": {
        "1000": ["1,00,0", "1,000,00", "1.000", "1.0.0.0"],
        "12": ["1,2", "12...", "12?", "1 2", "0x12", "12x", "12\u2030", "base 12", "12 in binary"],
        "1.5": ["1,5", "1.5.0"],
        "5": [
            "--5", "-5", "+-5", "-$-5", "5 quarters", "5/", "5-", "5/0", "\u0665", "5'10\"",
            "five six", "5 hundred and", "-(5)", "5 below zero",
        ],
        "7": ["7/0", "1/0", "7 = 8", "7 + 1 = 8", "2x + 1 = 15"],
        "": ["", "5"],
        "5/2": ["5 / 2 =", "5/2 *", "x = 5/2 ="],
        "2": ["2 *", "2 =", "2 is", "\u00b2", "the second", "second", "2\u00b2\u00b3"],
        "3": ["third", "3.33...", "3.3", "0.3 recurring", "thirds"],
        "1": ["first", "1/1/1", "a", "an apple"],
    },
}
# fmt: on
