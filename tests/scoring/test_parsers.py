"""The parsers: stanza by objects of its form, link-grammar itself where it is installed."""

from __future__ import annotations

import shutil
import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.scoring.parsing.link_grammar import sentence_spans
from dschat.scoring.parsing.parsers import open_parser
from dschat.scoring.parsing.segments import macro_action_lengths
from dschat.scoring.parsing.trees import Leaf, Node, read_bracket


def words(text: str, trees: list[Node]) -> list[list[str]]:
    return [[text[leaf.start : leaf.end] for leaf in tree.leaves()] for tree in trees]


def constituents(text: str, tree: Node) -> set[str]:
    """What each constituent of more than one word says."""
    found = set()

    def visit(part: Node | Leaf) -> None:
        if isinstance(part, Node):
            own = list(part.leaves())
            if len(own) > 1:
                found.add(text[own[0].start : own[-1].end])
            for child in part.children:
                visit(child)

    visit(tree)
    return found


def stanza_tree(part: Node | Leaf) -> SimpleNamespace:
    if isinstance(part, Leaf):
        return SimpleNamespace(label=part.word, children=())
    return SimpleNamespace(
        label=part.label, children=tuple(stanza_tree(child) for child in part.children)
    )


def test_stanzas_trees_with_words_that_share_a_token(monkeypatch: Any) -> None:
    text = "I don't know."
    bracket = "(ROOT (S (NP (PRP I)) (VP (VBP do) (RB n't) (VP (VB know))) (. .)))"
    tokens = [
        SimpleNamespace(start_char=a, end_char=b, words=[None] * n)
        for a, b, n in ((0, 1, 1), (2, 7, 2), (8, 12, 1), (12, 13, 1))
    ]
    sentence = SimpleNamespace(constituency=stanza_tree(read_bracket(bracket)), tokens=tokens)
    module: Any = types.ModuleType("stanza")
    module.Document = lambda sentences, text: text

    def pipeline(language: str, processors: str, **options: Any) -> Any:
        assert language == "en"
        assert processors == "tokenize,pos,constituency"
        assert options["download_method"] is None
        return lambda texts: [SimpleNamespace(sentences=[sentence] * (t == text)) for t in texts]

    module.Pipeline = pipeline
    monkeypatch.setitem(sys.modules, "stanza", module)
    blank, trees = open_parser("stanza")(["  ", text])
    assert blank == []
    assert words(text, trees) == [["I", "don't", "", "know", "."]]
    assert constituents(text, trees[0]) == {text, "don't know", "don't"} - {"don't"}
    assert macro_action_lengths(trees, ["I", " don", "'t", " know", "."], 4) == [1, 4]


def test_what_is_not_installed_is_told_with_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "stanza", None)
    with pytest.raises(UserError, match="pip install stanza.*stanza.download") as told:
        open_parser("stanza")
    assert "\n" not in str(told.value)

    def no_models(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("resources.json")

    module: Any = types.ModuleType("stanza")
    module.Pipeline = no_models
    monkeypatch.setitem(sys.modules, "stanza", module)
    with pytest.raises(UserError, match="models.*cannot be loaded.*resources.json.*download"):
        open_parser("stanza")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(UserError, match="apt-get install link-grammar"):
        open_parser("link-grammar")


def test_sentences() -> None:
    text = 'He left. "Why?" she said!\n\nTitle\n U.S. banks (all).  '
    parts = [text[a:b] for a, b in sentence_spans(text)]
    expected = ["He left.", '"Why?"', "she said!", "Title", "U.S.", "banks (all)."]
    assert parts == expected
    assert sentence_spans(" \n ") == []


real = pytest.mark.skipif(shutil.which("link-parser") is None, reason="link-grammar not installed")


@real
def test_link_grammar_finds_constituents() -> None:
    text = "The quick brown fox jumps over the lazy dog. My kettle broke and I need a new one."
    (trees,) = open_parser("link-grammar")([text])
    assert [len(w) for w in words(text, trees)] == [10, 10]
    found = constituents(text, trees[0])
    assert {"The quick brown fox", "the lazy dog", "over the lazy dog"} <= found


@real
def test_what_link_grammar_cannot_read_keeps_its_words() -> None:
    odd = [
        "!file=/etc/passwd",
        "% a comment?",
        "zib the the flurb of",
        ") ( {braces} [and] more (really).",
        "word " * 200,
        "naïve café ☕ \x00 end",
        "",
        "constituents set to 3",
        "(S (NP a) b)",
    ]
    good = "The dog sees the cat."
    answers = open_parser("link-grammar")([*odd, good, good])
    for text, trees in zip(odd, answers, strict=False):
        kept = "".join(w for sentence in words(text, trees) for w in sentence)
        assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]
        pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        lengths = macro_action_lengths(trees, pieces, 5)
        assert sum(lengths) == len(pieces)
    assert answers[-1] == answers[-2]
    assert "the cat" in constituents(good, answers[-1][0])  # answers have not been mixed up
