"""From trees over a text to macro actions over its tokens.

Source: Chai et al., MA-RLHF, ICLR 2025: the tree is walked from the root; a constituent of fewer
tokens than the cutoff is one macro action, a larger one is divided into its parts, and a part of a
single token (a full stop, say) joins the macro action before it. Here it does so within a sentence
only, and as long as that macro action has no more tokens than the cutoff.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from dschat.scoring.parsing.parsers import Parser
from dschat.scoring.parsing.trees import Leaf, Node


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: strings whose concatenation is the response's text.

    A character that several tokens make together comes with the last of them; special tokens add
    nothing. Only a few tokens are decoded at a time, so that the cost grows with the length.
    """
    pieces: list[str] = []
    first = known = 0  # tokens before `first` are forgotten, those before `known` have given text
    shown = ""
    for i in range(len(ids)):
        text = tokenizer.decode(ids[first : i + 1], skip_special_tokens=True)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and i + 1 < len(ids):
            pieces.append("")
            continue
        pieces.append(text[len(shown) :])
        first, known = known, i + 1
        shown = tokenizer.decode(ids[first:known], skip_special_tokens=True)
    return pieces


def segment_by(
    parser: Parser, tokenizer: Any, cutoff: int, ids: list[list[int]]
) -> list[list[int]]:
    """Lengths of the macro actions of several responses, given as token ids."""
    pieces = [token_pieces(tokenizer, row) for row in ids]
    trees = parser(["".join(row) for row in pieces])
    return [macro_action_lengths(t, p, cutoff) for t, p in zip(trees, pieces, strict=True)]


def leaf_of_each_token(pieces: Sequence[str], leaves: Sequence[Leaf]) -> list[int]:
    """The number of the leaf that each token belongs to; never falls from one token to the next.

    It is the leaf in which, or after which, the token's first visible character stands; a token
    without one belongs where the token before it does.
    """
    starts = [leaf.start for leaf in leaves]
    numbers: list[int] = []
    at = 0
    for piece in pieces:
        number = numbers[-1] if numbers else 0
        if piece.strip():
            visible = at + len(piece) - len(piece.lstrip())
            number = max(number, bisect_right(starts, visible) - 1)
        numbers.append(number)
        at += len(piece)
    return numbers


def macro_action_lengths(trees: Sequence[Node], pieces: Sequence[str], cutoff: int) -> list[int]:
    """Tokens of each macro action of a response, in order; their sum is the number of tokens.

    Args:
        trees: of the response's sentences in order, their leaves placed in the text.
        pieces: see `token_pieces`. cutoff: `--parser_cutoff`, at least 1.

    Returns:
        Positive lengths, none above the cutoff but those of words of more tokens.
    """
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    if not leaves:
        return [len(pieces)] if pieces else []
    counts = [0] * len(leaves)
    for number in leaf_of_each_token(pieces, leaves):
        counts[number] += 1
    lengths: list[int] = []
    first = 0
    for tree in trees:
        groups: list[int] = []
        first = _walk(tree, counts, first, cutoff, groups)
        begun = len(lengths)
        for group in groups:
            if group == 1 and len(lengths) > begun and lengths[-1] < cutoff:
                lengths[-1] += 1
            else:
                lengths.append(group)
    return lengths


def _walk(part: Node | Leaf, counts: list[int], first: int, cutoff: int, groups: list[int]) -> int:
    """Add the part's groups, and return the number of the first leaf after it."""
    after = first + (1 if isinstance(part, Leaf) else sum(1 for _ in part.leaves()))
    tokens = sum(counts[first:after])
    if tokens == 0:
        return after
    if isinstance(part, Leaf) or tokens < cutoff:
        groups.append(tokens)
        return after
    for child in part.children:
        first = _walk(child, counts, first, cutoff, groups)
    return after
