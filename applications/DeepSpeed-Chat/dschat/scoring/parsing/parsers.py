"""Constituency parsers: what the trainer asks of one, and the two that it can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dschat.errors import UserError
from dschat.scoring.parsing.trees import Leaf, Node, place


class Parser(Protocol):
    """Anything that makes constituency trees of texts."""

    def __call__(self, texts: Sequence[str]) -> list[list[Node]]:
        """Per text the trees of its sentences in order, their leaves placed in the text."""
        ...


def open_parser(name: str) -> Parser:
    """The parser called so.

    Raises:
        UserError: it, or its model, is not installed; says how to.
    """
    if name == "link-grammar":
        from dschat.scoring.parsing.link_grammar import LinkGrammarParser

        return LinkGrammarParser()
    return StanzaParser()


class StanzaParser:
    """Stanford's neural parser (package stanza); its models are downloaded once, by the user."""

    HOW = (
        'pip install stanza, then once, with a network: python -c "import stanza; stanza.download('
        "'en', processors='tokenize,pos,constituency')\". Or use --parser link-grammar, which "
        "downloads nothing"
    )

    def __init__(self) -> None:
        try:
            import stanza
        except ImportError as error:
            raise UserError(
                f"--termination_condition parsing needs the package stanza ({error}): {self.HOW}."
            ) from error
        try:
            self.pipeline: Callable[[list[Any]], list[Any]] = stanza.Pipeline(
                "en",
                processors="tokenize,pos,constituency",
                download_method=None,  # ranks would download the same files at the same time
                verbose=False,
            )
        except Exception as error:  # stanza and torch raise many kinds
            raise UserError(
                f"The English models of stanza cannot be loaded ({error}): {self.HOW}."
            ) from error
        self.document = stanza.Document

    def __call__(self, texts: Sequence[str]) -> list[list[Node]]:
        """See `Parser`."""
        some = [text for text in texts if text.strip()]
        documents = iter(self.pipeline([self.document([], text=text) for text in some]))
        return [
            [_of_stanza(s) for s in next(documents).sentences] if text.strip() else []
            for text in texts
        ]


def _of_stanza(sentence: Any) -> Node:
    """stanza's tree of a sentence, its leaves at their words' places."""

    def copied(tree: Any) -> Node | Leaf:
        if not tree.children:
            return Leaf(tree.label)
        return Node(tree.label, tuple(copied(child) for child in tree.children))

    spans: list[tuple[int, int]] = []
    for token in sentence.tokens:
        # "don't" is one token of two words: the first has all of its characters.
        spans.append((token.start_char, token.end_char))
        spans += [(token.end_char, token.end_char)] * (len(token.words) - 1)
    root = copied(sentence.constituency)
    assert isinstance(root, Node)
    return place(root, spans)
