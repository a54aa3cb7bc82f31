"""Wrappers and look-alikes of numbers taken off: what is left is one line, mostly ASCII.

LaTeX is rewritten only where nothing is lost; a command that is not known here stays, and makes
the text no plain number.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2013\u2014\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2007\u3000\t\r\n", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("\u2018\u2019\u02bc", "'"),
    **dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"'),
    **dict.fromkeys("\u00d7\u22c5\u00b7\u2217\u2715", "×"),
    **dict.fromkeys("\u2044\u2215\uff0f", "/"),
    **dict.fromkeys("\u2248\u223c\u2243\u2245\u2192\u21d2\u27f9\u279c", "="),
    "\uff04": "$",
    "\uff05": "%",
    "\uff1d": "=",
    "\uff0e": ".",
    "\uff0c": ",",
    "\uff0b": "+",
    "\u00ba": "°",
}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_FORMULA = re.compile(r"\\\(|\\\)|\\\[|\\\]|\$\$")
_INLINE = re.compile(r"(?<![\\$])\$([^$]*)(?<!\\)\$(?![\d$])")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z]{0,15}>")
_BOLD = re.compile(r"(?<![\w)*])(\*\*|__|\*)(?=[^\s*_])([^*_]*[^\s*_])\1(?![\w(*])")
_BULLET = re.compile(r"^(?:[•∴✓✔✅]\s*|[A-Za-z]\)\s+|-\s+(?=[^\W\d_]))")
_TIMES = re.compile(r"(?<=[0-9)])\s*[xX]\s*(?=[0-9(])")
_JOINED = re.compile(r"(?<=[√∛^])\s*\(([^()]*)\)|(?<=\*\*)\s*\(([^()]*)\)|(?<=rt)\(([^()]*)\)")
_SPACES = re.compile(r"\\[,;:! \\]|\\(?:quad|qquad|left|right|displaystyle|limits)(?![A-Za-z])|~")
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*"
    r"\{([^{}]*)\}"
)
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*(-?[0-9.,]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9.,]+)\s*\}|([0-9]))"
)
_ROOT = re.compile(r"\\sqrt\s*(?:\{\s*([0-9.,]+)\s*\}|([0-9]))")
_SCRIPT = re.compile(r"\^\s*[{(]\s*([+-]?[0-9]+|\\circ)\s*[})]")
_COMMANDS = {
    **dict.fromkeys(("times", "cdot", "ast"), " × "),
    **dict.fromkeys(("approx", "sim", "simeq", "implies", "Rightarrow", "to"), "="),
    "boxed": " ",
    "circ": "°",
    "degree": "°",
    "percent": "%",
    "pi": " π ",
    "pounds": "£",
    "euro": "€",
    "div": " ÷ ",
    "cents": "¢",
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")


def plain(text: str) -> str:
    """One line without wrappers: emphasis, quotes, tags, maths delimiters and LaTeX.

    A blank may stand where one stood or where a command was; linear for the short texts it gets.
    """
    text = _ascii(text)
    text = _delatexed(_FORMULA.sub(" ", text))
    text = _INLINE.sub(r" \1 ", text)
    text = _TAG.sub(" ", text)
    text = _BOLD.sub(r"\2", text)
    text = text.replace("`", " ").replace('"', " ").replace("~", "=")
    text = text.replace("[", "(").replace("]", ")").replace("{", "(").replace("}", ")")
    text = re.sub(r"(?<=[A-Za-z]) +\^", "^", text)  # \text{ cm}^2
    text = _TIMES.sub(" × ", text)
    text = _JOINED.sub(lambda match: " " + "".join(filter(None, match.groups())), text)
    if re.search(r"[A-Za-z]{2}", text):
        text = text.rstrip(" !")  # no factorial: a sentence
    return unwrapped(" ".join(text.split()))


def unwrapped(text: str) -> str:
    """Without the marks, brackets and the stop around the whole of it."""
    while True:
        before = text
        if text.endswith(" *"):
            return text  # a product that goes on
        text = _BULLET.sub("", text.strip(" *_,;:#"))
        if not text.endswith(".."):
            text = text.removesuffix(".")
        if len(text) > 1 and text[0] == text[-1] == "'":
            text = text[1:-1]
        if text[:1] == "(" and text[-1:] == ")" and not {"(", ")"} & set(text[1:-1]):
            text = text[1:-1]
        if text == before:
            return text


def _ascii(text: str) -> str:
    return "".join(map(_sign, _RAISED.sub(_raised, text)))


def _raised(match: re.Match[str]) -> str:
    return "^" + "".join(_SUPERSCRIPTS[sign] for sign in match[0])


def _sign(sign: str) -> str:
    if sign.isascii():
        return " " if sign in "\t\r\n" else sign
    if sign in _SIGNS:
        return _SIGNS[sign]
    simple = unicodedata.normalize("NFKC", sign)
    if len(simple) == 1 and simple.isascii() and (sign.isdecimal() or simple.isalpha()):
        return simple  # full-width and mathematical letters and digits
    if len(simple) == 3 and simple[1] == "\u2044":
        return f" {simple[0]}/{simple[2]} "  # a vulgar fraction
    return sign


def _delatexed(text: str) -> str:
    if "\\" not in text and "^" not in text:
        return text
    text = text.replace(r"\$", "\0").replace(r"\%", "%").replace("{,}", ",").replace("{.}", ".")
    text = _SPACES.sub(" ", text) if "\\" in text else text
    for _ in range(3):  # wrappers stand in wrappers
        text = _SCRIPT.sub(r"^\1", text)
        text = _WRAPPER.sub(r" \1 ", text)
        text = _FRACTION.sub(_fraction, text)
        text = _ROOT.sub(lambda match: f" √{match[1] or match[2]} ", text)
    text = text.replace(r"^\circ", "°")
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match[1], match[0]), text)
    # A dollar that is escaped is money; one that is not stands around a formula.
    if "\0" in text:
        text = text.replace("$", " ")
    return text.replace("\0", "$")


def _fraction(match: re.Match[str]) -> str:
    above, below = match[1] or match[2], match[3] or match[4]
    return f" {above}/{below} " if above[0] != "-" else f"{above}/{below} "
