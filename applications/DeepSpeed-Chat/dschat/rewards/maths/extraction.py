"""Where a response says its answer: in tags, behind ####, in a box, in words, or at its end.

Each form is a function from a response to the text of the answer, or None where the response does
not have that form. `find_answer` tries them in an order that the user gives; what is found may
still be no number (`math_numbers`), and is then wrong: no other form is tried after it, or a
response could answer several times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dschat.rewards.math_numbers import read_number
from dschat.settings.rewards import FORMS

_BOX = re.compile(r"\\f?boxed\s*(\{)|\\.|([{}])", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s*([0-9][0-9.,]*)")
_PHRASE = re.compile(
    r"\banswer\b(?:\s+to\s+[^.\n:]{1,80}?)?[*_\s]*(?:\bis\b|\bwas\b|\bwould\s+be\b|:|=)"
    r"(?:\s*(?:therefore|thus|just|simply))?[*_:\s]*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\banswer[*_: ]*\n+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|(?<=[^\s.])[.!?](?=\s|$|[\"')*\]])")
_CLAUSE_END = re.compile(r",\s|;|\b(?:because|since|as|so|which|for|when|if|i\.e)\b|\(")
_ANYTHING_NUMERIC = re.compile(r"\d|[½⅓¼¾]")
_NUMBER = re.compile(
    r"(?<![A-Za-z])(?:[-\u2212+]\s?)?[$€£¥]?\s?[-\u2212]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
    r"(?:\s?(?:/|\^|\*\*|[*×x+\-\u2212÷]\s?)\s?(?:\d[\d,]*(?:\.\d+)?))*"
    r"(?P<ordinal>(?:st|nd|rd|th)\b)?"
)
LONGEST_SENTENCE = 400
LOOKED_AT = 20_000
"""Characters at the end of a response in which words and last numbers are looked for."""


def find_answer(response: str, forms: Sequence[str] = FORMS) -> tuple[str | None, str | None]:
    """The answer by the first of the forms that the response has, and that form's name.

    Both None where it has none. Takes linear time, and never raises.
    """
    for form in forms:
        answer = EXTRACTORS[form](response)
        if answer is not None:
            return answer, form
    return None, None


def tagged(response: str) -> str | None:
    """What stands in the last complete <answer>...</answer>; None if there is none or it is empty.

    An <answer> that is never closed, as in a response cut at its length limit, does not count.
    """
    end = response.rfind("</answer>")
    begin = response.rfind("<answer>", 0, max(end, 0))
    if end < 0 or begin < 0:
        return None
    return response[begin + len("<answer>") : end].strip() or None


def hashed(response: str) -> str | None:
    """The rest of the last line that has #### before a number; "#### Step 2" is a heading."""
    for line in reversed(response.split("\n")):
        _, mark, rest = line.rpartition("####")
        rest = rest.strip()
        if not mark or not rest or len(rest) > LONGEST_SENTENCE:
            continue
        heading = re.match(r"[A-Za-z]{2,}", rest) and not re.match(r"(?i)(final )?answer\b", rest)
        if not heading or read_number(rest.split()[0]) is not None:
            return rest
    return None


def boxed(response: str) -> str | None:
    """What stands in the last \\boxed{...} whose braces are balanced and that holds no formula."""
    opened: list[int | None] = []
    found = None
    for match in _BOX.finditer(response):
        if match[1]:
            opened.append(match.end())
        elif match[2] == "{":
            opened.append(None)
        elif match[2] == "}" and opened:
            begin = opened.pop()
            if begin is not None:
                found = response[begin : match.start()].strip()
    if found is None:
        bare = _BARE_BOX.findall(response)
        found = bare[-1] if bare else None
    # A dollar sign inside would open or close a formula; \$ is money.
    if not found or re.search(r"(?<!\\)\$", found):
        return None
    return found


def phrased(response: str) -> str | None:
    """What follows the last "answer is", "Answer:" or a heading "Answer" that is about a number.

    The sentence, or its first clause where the sentence is no number ("18, because 3 x 6 = 18").
    """
    response = response[-LOOKED_AT:]
    starts = [match.end() for match in _PHRASE.finditer(response)]
    starts += [match.end() for match in _HEADING.finditer(response)]
    for start in sorted(starts, reverse=True)[:20]:
        sentence = _sentence(response, start)
        if not sentence:
            continue
        if read_number(sentence) is not None:
            return sentence
        clause = _CLAUSE_END.split(sentence, maxsplit=1)[0].strip()
        if clause and read_number(clause) is not None:
            return clause
        if _ANYTHING_NUMERIC.search(sentence):
            return sentence
    return None


def last_number(response: str) -> str | None:
    """The last number with the rest of its sentence, which may change it ("5 is not right").

    What stands before it in the sentence is left out, but for the calculation that it ends. 2nd and
    13th are passed over where there is another number.
    """
    response = response[-LOOKED_AT:]
    lines = [line for line in response.split("\n") if _ANYTHING_NUMERIC.search(line)]
    if not lines:
        return response.strip() if read_number(response) is not None else None
    sentences = [part for part in _sentences(lines[-1]) if _ANYTHING_NUMERIC.search(part)]
    sentence = sentences[-1][-LONGEST_SENTENCE:].strip()
    if read_number(sentence) is not None:
        return sentence
    numbers = list(_NUMBER.finditer(sentence))
    numbers = [number for number in numbers if not number["ordinal"]] or numbers
    if not numbers:
        return sentence
    number = numbers[-1]
    rest = sentence[number.start() :].strip()
    if read_number(rest) is not None:
        return rest
    # What changes a number stands near it: "23 songs in two days" are 23, "5 is not right" none.
    near = sentence[number.end() :].split()[:2]
    if near and read_number(near[-1]) is not None:
        near.pop()
    return " ".join([number[0].strip(), *near])


def _sentence(response: str, start: int) -> str:
    """The sentence from a place on, without the blanks and lines before it."""
    rest = response[start : start + LONGEST_SENTENCE].lstrip(" \t\n*_:")
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip(" *_")


def _sentences(line: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(line) if part and part.strip()]


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "tags": tagged,
    "hashes": hashed,
    "boxed": boxed,
    "phrase": phrased,
    "last_number": last_number,
}
