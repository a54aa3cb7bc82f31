"""Constituency trees whose leaves are words with their places in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# How the Penn Treebank writes what brackets and quotes would hide.
PENN = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
}


@dataclass(frozen=True)
class Leaf:
    """A word: characters start to end of the text (both -1 where nobody has looked yet)."""

    word: str
    start: int = -1
    end: int = -1


@dataclass(frozen=True)
class Node:
    """A constituent with its parts in order."""

    label: str
    children: tuple[Node | Leaf, ...]

    def leaves(self) -> Iterator[Leaf]:
        """The words below, from left to right."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child
            else:
                yield from child.leaves()


def read_bracket(text: str) -> Node:
    """A tree in the Penn Treebank's notation: (S (NP (DT the) (NN dog)) (VP (VBZ barks))).

    Raises:
        ValueError: brackets do not match, or there is more or less than one tree.
    """
    found: list[tuple[str, list[Node | Leaf]]] = []
    roots: list[Node] = []
    label_next = False
    for symbol in re.findall(r"[()]|[^()\s]+", text):
        if symbol == "(":
            if label_next:
                found.append(("", []))
            label_next = True
            continue
        if label_next:
            found.append((symbol if symbol != ")" else "", []))
            label_next = False
            if symbol != ")":
                continue
        if symbol != ")" and found:
            found[-1][1].append(Leaf(PENN.get(symbol, symbol)))
        elif symbol == ")" and found:
            label, children = found.pop()
            node = Node(label, tuple(children))
            if found:
                found[-1][1].append(node)
            else:
                roots.append(node)
        else:
            raise ValueError(f"brackets do not match in {text[:200]!r}")
    if found or label_next or len(roots) != 1:
        raise ValueError(f"expected one tree with matching brackets, given {text[:200]!r}")
    return roots[0]


def place(tree: Node, spans: Sequence[tuple[int, int]]) -> Node:
    """The tree with its leaves at these places, one per leaf from left to right."""
    rest = iter(spans)

    def walk(node: Node) -> Node:
        children: list[Node | Leaf] = []
        for child in node.children:
            if isinstance(child, Leaf):
                children.append(Leaf(child.word, *next(rest)))
            else:
                children.append(walk(child))
        return Node(node.label, tuple(children))

    return walk(tree)


def find_words(
    words: Sequence[str], text: str, start: int, stop: int
) -> list[tuple[int, int]] | None:
    """Where the words stand in text[start:stop], one after the other, in upper or lower case.

    None where one of them is not there, or letters or digits are left out between two.
    """
    lowered, spans, at = text.lower(), [], start
    if len(lowered) != len(text):  # a few letters change their number
        lowered = text
    for word in words:
        found = lowered.find(word.lower(), at, stop)
        if found < 0 or any(c.isalnum() for c in text[at:found]):
            return None
        at = found + len(word)
        spans.append((found, at))
    return None if any(c.isalnum() for c in text[at:stop]) else spans


def flat_tree(text: str, start: int = 0, stop: int | None = None) -> Node:
    """What stands for a sentence that has no tree: its words side by side."""
    stop = len(text) if stop is None else stop
    words = re.finditer(r"\S+", text[start:stop])
    spans = [(start + w.start(), start + w.end()) for w in words]
    return Node("X", tuple(Leaf(text[a:b], a, b) for a, b in spans))
