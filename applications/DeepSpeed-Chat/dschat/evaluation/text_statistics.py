"""Statistics of response texts."""

from __future__ import annotations

from collections.abc import Iterable


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Share of different word n-grams among all of them (Li et al., NAACL 2016).

    Args:
        texts: responses. n: words per n-gram, at least 1.

    Returns:
        A number in [0, 1]; 0 where no text has n words.
    """
    if n < 1:
        raise ValueError(f"Given n = {n}; expected 1 or more words per n-gram.")
    seen: set[tuple[str, ...]] = set()
    count = 0
    for text in texts:
        words = text.split()
        for i in range(len(words) - n + 1):
            seen.add(tuple(words[i : i + n]))
            count += 1
    return len(seen) / count if count else 0.0
