"""Macro actions by constituents: worked examples, and properties on random trees and tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dschat.scoring.parsing.segments import (
    leaf_of_each_token,
    macro_action_lengths,
    segment_by,
    token_pieces,
)
from dschat.scoring.parsing.trees import Leaf, Node, find_words, place, read_bracket
from hypothesis import given, settings
from hypothesis import strategies as st

SENTENCE = "The quick fox jumps over the very lazy old dog."
TREE = """(S (NP (DT The) (JJ quick) (NN fox)) (VP (VBZ jumps) (PP (IN over)
 (NP (DT the) (ADJP (RB very) (JJ lazy)) (JJ old) (NN dog)))) (. .))"""


def placed(bracket: str, text: str) -> Node:
    tree = read_bracket(bracket)
    spans = find_words([leaf.word for leaf in tree.leaves()], text, 0, len(text))
    assert spans is not None
    return place(tree, spans)


def groups(tree: Node, pieces: list[str], cutoff: int) -> list[str]:
    texts, rest = [], list(pieces)
    for n in macro_action_lengths([tree], pieces, cutoff):
        texts.append("".join(rest[:n]))
        rest = rest[n:]
    assert not rest
    return texts


def test_constituents_below_the_cutoff_are_one_macro_action() -> None:
    tree = placed(TREE, SENTENCE)
    words = ["The", " quick", " fox", " jumps", " over", " the", " very", " lazy", " old", " dog"]
    pieces = [*words, "."]
    # 11 tokens in all; PP has 6, its NP 5, the first NP 3.
    assert groups(tree, pieces, 12) == [SENTENCE]
    # Single tokens join what is before them within the cutoff.
    assert groups(tree, pieces, 7) == ["The quick fox jumps", " over the very lazy old dog."]
    assert groups(tree, pieces, 5) == ["The quick fox jumps over", " the", " very lazy old dog."]
    assert groups(tree, pieces, 4) == [
        "The quick fox jumps",
        " over the",
        " very lazy old dog",
        ".",
    ]
    assert groups(tree, pieces, 3) == [
        "The quick fox",
        " jumps over the",
        " very lazy old",
        " dog.",
    ]


def test_a_word_of_many_tokens_stays_whole() -> None:
    text = "See antidisestablishmentarianism now"
    tree = placed("(S (VB See) (NN antidisestablishmentarianism) (RB now))", text)
    pieces = ["See", " anti", "dis", "establish", "ment", "arianism", " now"]
    assert groups(tree, pieces, 3) == ["See", " antidisestablishmentarianism", " now"]


def test_a_token_over_two_words_goes_with_the_first_and_an_empty_one_with_the_last() -> None:
    text = "I don't know"
    leaves = [Leaf("I", 0, 1), Leaf("do", 2, 4), Leaf("n't", 4, 7), Leaf("know", 8, 12)]
    pieces = ["I", " don't", " ", "know", ""]
    assert leaf_of_each_token(pieces, leaves) == [0, 1, 1, 3, 3]
    assert text == "".join(pieces)


def test_sentences_are_apart() -> None:
    text = "Go. Come home."
    trees = [
        Node("S", (Leaf("Go", 0, 2), Leaf(".", 2, 3))),
        Node("S", (Leaf("Come", 4, 8), Leaf("home", 9, 13), Leaf(".", 13, 14))),
    ]
    pieces = ["Go", ".", " Come", " home", "."]
    assert "".join(pieces) == text
    assert macro_action_lengths(trees, pieces, 3) == [2, 3]


def test_text_without_words() -> None:
    assert macro_action_lengths([], ["", "\n"], 5) == [2]
    assert macro_action_lengths([], [], 5) == []


LABELS = st.sampled_from(["NP", "VP", "S"])
WORDS = st.text("ab(.", min_size=1, max_size=7).map(Leaf)
TREES = st.recursive(
    WORDS,
    lambda parts: st.builds(Node, LABELS, st.lists(parts, min_size=1, max_size=4).map(tuple)),
    max_leaves=25,
)


@st.composite
def responses(draw: Any) -> tuple[list[Node], list[str]]:
    """Trees of one to three sentences, and their text cut into tokens anywhere."""
    text, trees = draw(st.sampled_from(["", " "])), []
    for tree in draw(st.lists(TREES, min_size=1, max_size=3)):
        root = tree if isinstance(tree, Node) else Node("X", (tree,))
        spans = []
        for leaf in root.leaves():
            spans.append((len(text), len(text) + len(leaf.word)))
            text += leaf.word + draw(st.sampled_from(["", " ", "\n "]))
        trees.append(place(root, spans))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=60)))
    return trees, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def tokens_below(part: Node | Leaf, owner: list[Leaf]) -> list[int]:
    own = [part] if isinstance(part, Leaf) else list(part.leaves())
    return [i for i, leaf in enumerate(owner) if any(leaf is o for o in own)]


@settings(max_examples=150, deadline=None)
@given(response=responses(), cutoff=st.integers(2, 8))
def test_macro_actions_partition_the_tokens_and_keep_small_constituents_whole(
    response: tuple[list[Node], list[str]], cutoff: int
) -> None:
    trees, pieces = response
    lengths = macro_action_lengths(trees, pieces, cutoff)
    assert sum(lengths) == len(pieces)
    assert all(n > 0 for n in lengths)
    group_of = [k for k, n in enumerate(lengths) for _ in range(n)]
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    owner = [leaves[i] for i in leaf_of_each_token(pieces, leaves)]
    for k, n in enumerate(lengths):
        inside = {id(owner[i]) for i in range(len(pieces)) if group_of[i] == k}
        assert n <= cutoff or len(inside) == 1

    def visit(part: Node | Leaf) -> None:
        own = tokens_below(part, owner)
        if own and len(own) < cutoff:
            assert len({group_of[i] for i in own}) == 1
        for child in part.children if isinstance(part, Node) else ():
            visit(child)

    for tree in trees:
        visit(tree)
        own = tokens_below(tree, owner)
        sizes = [lengths[k] for k in sorted({group_of[i] for i in own})]
        assert not any(b == 1 and a < cutoff for a, b in pairwise(sizes))
        assert sum(sizes) == len(own)  # no macro action crosses a sentence's end


@settings(max_examples=100, deadline=None)
@given(response=responses())
def test_a_token_belongs_to_the_word_of_its_first_visible_character(
    response: tuple[list[Node], list[str]],
) -> None:
    trees, pieces = response
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    word_of_character = {c: i for i, leaf in enumerate(leaves) for c in range(leaf.start, leaf.end)}
    numbers, at = leaf_of_each_token(pieces, leaves), 0
    for piece, number in zip(pieces, numbers, strict=True):
        visible = [at + i for i, c in enumerate(piece) if not c.isspace()]
        if visible:
            assert number == word_of_character[visible[0]]
        at += len(piece)
    assert numbers == sorted(numbers)


def bytes_tokenizer() -> Any:
    """One token per byte: characters beyond ASCII take several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(["<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


BYTES = bytes_tokenizer()


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_make_the_text(text: str) -> None:
    ids = [*BYTES(text)["input_ids"], BYTES.eos_token_id]
    pieces = token_pieces(BYTES, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == BYTES.decode(ids, skip_special_tokens=True) == text
    assert pieces[-1] == ""


def test_a_character_of_several_tokens_comes_with_the_last(tiny_tokenizer: Any) -> None:
    ids = BYTES("é x")["input_ids"]
    assert token_pieces(BYTES, ids) == ["", "é", " ", "x"]
    ids = tiny_tokenizer("The capital of France is Paris.")["input_ids"]
    assert "".join(token_pieces(tiny_tokenizer, ids)) == "The capital of France is Paris."


def test_several_responses_at_once(tiny_tokenizer: Any) -> None:
    tree = placed(TREE, SENTENCE)

    def parser(texts: Any) -> list[list[Node]]:
        assert texts == [SENTENCE, ""]
        return [[tree], []]

    ids = [tiny_tokenizer(SENTENCE)["input_ids"], [tiny_tokenizer.eos_token_id]]
    found = segment_by(parser, tiny_tokenizer, 6, ids)
    assert [sum(row) for row in found] == [len(row) for row in ids]
    assert found[1] == [1]
    assert len(found[0]) > 1
