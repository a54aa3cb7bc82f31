"""Trees in bracket form, and words found again in the text."""

from __future__ import annotations

import pytest
from dschat.scoring.parsing.trees import Leaf, Node, find_words, flat_tree, place, read_bracket

PENN = """
( (S (NP-SBJ (DT The) (NN dog))
     (VP (VBD sat) (-LRB- -LRB-) (ADVP (RB quietly)) (-RRB- -RRB-)) (. .)) )
"""


def labels(node: Node) -> str:
    inner = " ".join(labels(c) if isinstance(c, Node) else c.word for c in node.children)
    return f"({node.label} {inner})"


def test_a_tree_of_the_penn_treebank() -> None:
    tree = read_bracket(PENN)
    assert [leaf.word for leaf in tree.leaves()] == ["The", "dog", "sat", "(", "quietly", ")", "."]
    assert tree.label == ""
    assert labels(tree.children[0]).startswith("(S (NP-SBJ (DT The) (NN dog)) (VP (VBD sat)")


def test_another_reader_reads_the_same() -> None:
    nltk = pytest.importorskip("nltk")
    text = "(S (NP (DT the) (NN cat)) (VP (VBZ sees) (NP (PRP it))) (. .))"
    theirs, ours = nltk.Tree.fromstring(text), read_bracket(text)
    assert [leaf.word for leaf in ours.leaves()] == theirs.leaves()
    assert labels(ours).split() == theirs.pformat(margin=10**6).split()


@pytest.mark.parametrize("text", ["", "(S (NP a)", "(S a))", "a", "(S a) (S b)", "(S a) b"])
def test_what_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_bracket(text)


def test_words_are_found_in_either_case_and_nothing_may_be_left_out() -> None:
    text = 'He said: "No (really)." The end'
    words = ["he", "said", "No", "(", "really", ")", "."]
    spans = find_words(words, text, 0, 23)
    assert spans is not None
    assert [text[a:b] for a, b in spans] == ["He", "said", "No", "(", "really", ")", "."]
    assert find_words(["he", "No"], text, 0, 23) is None  # "said" is left out
    assert find_words(["he", "said", "maybe"], text, 0, 23) is None
    assert find_words(words, text, 0, len(text)) is None  # "The end" is left out


def test_leaves_get_their_places_from_left_to_right() -> None:
    tree = place(read_bracket("(S (NP a b) c)"), [(0, 1), (2, 3), (3, 4)])
    assert list(tree.leaves()) == [Leaf("a", 0, 1), Leaf("b", 2, 3), Leaf("c", 3, 4)]


def test_words_side_by_side() -> None:
    assert list(flat_tree("  two words ", 1).leaves()) == [Leaf("two", 2, 5), Leaf("words", 6, 11)]
