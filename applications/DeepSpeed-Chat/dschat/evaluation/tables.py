"""Tables of figures as plain text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, a line under their names, an empty line before and after."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))

    head = line(header)
    return "\n".join(["", head, "-" * len(head), *map(line, rows), ""])


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Share of different word n-grams among all of them (Li et al., NAACL 2016); 0 of none."""
    words = [text.split() for text in texts]
    found = [tuple(each[i : i + n]) for each in words for i in range(len(each) - n + 1)]
    return len(set(found)) / len(found) if found else 0.0


def response_figures(
    rewards: Sequence[float],
    responses: Sequence[str],
    lengths: Sequence[int],
    ended: Sequence[bool] | None = None,
    divergences: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Figures of one response per prompt.

    Args:
        lengths: in tokens, the end token included. ended: by itself, not at the length limit.
        divergences: by name, the sum over each response's tokens.

    Returns:
        Means; `standard_error` of the mean reward (None of a single response); `distinct_1` and
        `distinct_2` over all responses together.
    """
    n = len(rewards)
    return {
        "responses": n,
        "reward": statistics.fmean(rewards),
        "standard_error": statistics.stdev(rewards) / n**0.5 if n > 1 else None,
        "length": statistics.fmean(lengths),
        "distinct_1": distinct_n(responses, 1),
        "distinct_2": distinct_n(responses, 2),
        **({"ended": statistics.fmean(map(float, ended))} if ended is not None else {}),
        **{name: statistics.fmean(values) for name, values in (divergences or {}).items()},
    }


COLUMNS = {
    "responses": ("responses", "{:d}"),
    "reward": ("reward", "{:.3f}"),
    "standard_error": ("std. error", "{:.3f}"),
    "length": ("tokens", "{:.1f}"),
    "distinct_1": ("distinct-1", "{:.3f}"),
    "distinct_2": ("distinct-2", "{:.3f}"),
    "ended": ("ended", "{:.1%}"),
    "problems": ("problems", "{:d}"),
    "pass@1_error": ("std. error", "{:.1%}"),
    "compile_error": ("compile error", "{:.1%}"),
    "failed": ("error or time-out", "{:.1%}"),
    "ran": ("ran", "{:.1%}"),
}


def _column(name: str) -> tuple[str, str]:
    """Title and format of a figure."""
    return COLUMNS.get(name, (name, "{:.1%}" if name.startswith("pass@") else "{:.3f}"))


def figures_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each kind of responses; a divergence has its own column by its name."""
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    formats = [_column(name) for name in names]
    rows = [
        [
            kind,
            *(
                "-" if found.get(name) is None else form.format(found[name])
                for name, (_, form) in zip(names, formats, strict=True)
            ),
        ]
        for kind, found in figures.items()
    ]
    return text_table(["", *(title for title, _ in formats)], rows)
