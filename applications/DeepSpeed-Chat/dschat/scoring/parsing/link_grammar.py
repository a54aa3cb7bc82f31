"""The Link Grammar Parser's English, as Debian's and Ubuntu's package link-grammar has it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from dschat.errors import UserError
from dschat.scoring.parsing.trees import Node, find_words, flat_tree, place, read_bracket

PROGRAM = "link-parser"
OPTIONS = ("en", "-constituents=3", "-graphics=0", "-verbosity=0", "-spell=0", "-timeout=2")
SEPARATOR = "constituents set to 3"
"""What the program answers to the command `!constituents=3`."""
MOST_WORDS = 60
SECONDS_PER_SENTENCE = 10


class LinkGrammarParser:
    """Runs link-parser, which downloads nothing.

    A sentence that it cannot read within two seconds, or whose words it changes, has its words side
    by side instead.

    Raises:
        UserError: the program is not installed.
    """

    def __init__(self) -> None:
        if shutil.which(PROGRAM) is None:
            raise UserError(
                f"--parser link-grammar needs the program {PROGRAM}: apt-get install link-grammar "
                "link-grammar-dictionaries-en."
            )

    def __call__(self, texts: Sequence[str]) -> list[list[Node]]:
        """Per text the trees of its sentences in order, their leaves placed in the text."""
        cut = [sentence_spans(text) for text in texts]
        lines = {
            line: ""
            for text, spans in zip(texts, cut, strict=True)
            for a, b in spans
            if (line := _line(text[a:b]))
        }
        trees = dict(zip(lines, _ask(list(lines)), strict=True))
        return [
            [_tree(text, a, b, trees.get(_line(text[a:b]), "")) for a, b in spans]
            for text, spans in zip(texts, cut, strict=True)
        ]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Runs of characters up to a line's end, or to . ! ? (and closing quotes) before a space."""
    ends = [m.end() for m in re.finditer(r"[.!?]+[\"')\]]*(?=\s)|\n+", text)] + [len(text)]
    spans = []
    for a, b in zip([0, *ends], ends, strict=False):
        part = text[a:b]
        if part.strip():
            spans.append((a + len(part) - len(part.lstrip()), b - len(part) + len(part.rstrip())))
    return spans


def _line(sentence: str) -> str:
    """A sentence as a line of input; empty if it would not be read as a sentence."""
    words = sentence.split()
    odd = sentence[:1] in "!%" or not sentence.isprintable() or len(words) > MOST_WORDS
    return "" if odd else " ".join(words)


def _ask(lines: list[str]) -> list[str]:
    """The program's answer to each line, empty where it has none."""
    if not lines:
        return []
    command = SEPARATOR.replace(" set to ", "=")
    given = "".join(f"{line}\n!{command}\n" for line in lines)
    try:
        answer = subprocess.run(
            [PROGRAM, *OPTIONS],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=60 + SECONDS_PER_SENTENCE * len(lines),
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"{PROGRAM} has failed ({error}). Use --parser stanza or --termination_condition fixed."
        ) from error
    # Its options are answered first, the last of them by the separator or not: count from the end.
    parts = re.split(rf"^{re.escape(SEPARATOR)}$", answer, flags=re.MULTILINE)[:-1]
    if len(parts) < len(lines):
        raise UserError(
            f"{PROGRAM} answered {len(parts)} of {len(lines)} sentences. Use --parser stanza, or "
            "--termination_condition fixed."
        )
    return parts[-len(lines) :]


def _tree(text: str, start: int, stop: int, answer: str) -> Node:
    """The tree in an answer, its leaves found in text[start:stop]; else the words side by side."""
    line = next((line for line in answer.splitlines() if line.startswith("(")), "")
    try:
        tree = read_bracket(line)
    except ValueError:
        return flat_tree(text, start, stop)
    words = [_word(leaf.word) for leaf in tree.leaves()]
    spans = find_words(words, text, start, stop)
    return flat_tree(text, start, stop) if spans is None else place(tree, spans)


def _word(shown: str) -> str:
    """A word without link-parser's marks: the.a, {skipped}, and brackets written as braces."""
    if len(shown) > 2 and shown.startswith("{") and shown.endswith("}"):
        shown = shown[1:-1]
    shown = re.sub(r"(?<=.)\{[^}]*\}", "", shown)
    shown = re.sub(r"(?<=.)\.[a-z][-a-z0-9]*$", "", shown)
    return shown.replace("{", "(").replace("}", ")")
