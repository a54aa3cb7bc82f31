"""A comparison as plain text."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

from dschat.errors import printable
from dschat.evaluation.comparison.figures import LETTERS, Figures, Measure
from dschat.evaluation.comparison.pairing import Aligned
from dschat.evaluation.judging.terminal import one_line
from dschat.evaluation.tables import text_table
from dschat.runtime.statistics import Estimate

COLUMN = 58
PROMPT_LINES = 12
HOW = (
    "[a, b]: 95 % intervals; of means by bootstrap over prompts (BCa), of shares after Wilson. "
    "A prompt with several responses counts once, by their mean."
)
# Embeddings, overrides and isolates of the writing direction (Unicode, UAX 9).
DIRECTIONS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
LONGEST_SHOWN = 20_000


def harmless(text: str) -> str:
    """The text without control characters, lone surrogates and changes of direction.

    Each becomes U+FFFD. Of a very long text the beginning is kept, and how much was cut is said.
    """
    shown = printable(text[:LONGEST_SHOWN])
    shown = shown.translate(dict.fromkeys(DIRECTIONS, "\N{REPLACEMENT CHARACTER}"))
    cut = len(text) - LONGEST_SHOWN
    return shown + (f" [... {cut} more characters]" if cut > 0 else "")


def estimate_text(estimate: Estimate, share: bool = False) -> str:
    """Mean and interval."""

    def number(value: float) -> str:
        return f"{value:.1%}" if share else f"{value:.4g}"

    if estimate.low is None or estimate.high is None:
        return number(estimate.mean)
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"


def counts_text(figures: Figures) -> str:
    """How much was compared."""
    what = {1: "responses", 2: "pairs of responses"}.get(len(figures.names), "responses of each")
    text = f"{figures.pairs} {what} to {figures.prompts} prompts"
    if any(figures.unpaired):
        each = (f"{n} of {x}" for n, x in zip(figures.unpaired, LETTERS, strict=False))
        text += f"; skipped, because their prompt is not in every file: {', '.join(each)}"
    return text


def outcome_lines(figures: Figures) -> list[tuple[str, str]]:
    """What is a share, and the share with its interval."""
    lines = []
    for letter, outcome in zip(LETTERS[1:], figures.outcomes, strict=False):
        lines += [
            (f"A has the higher reward than {letter}", outcome.wins),
            (f"{letter} has the higher reward than A", outcome.losses),
            (f"A and {letter} have the same reward", outcome.ties),
        ]
    return [(what, estimate_text(share, share=True)) for what, share in lines]


def measure_cells(figures: Figures, measure: Measure) -> list[str]:
    """The models' values of a measure, then the differences."""
    cells = [estimate_text(e, measure.share) for e in (*measure.of, *measure.differences)]
    return cells + ["-"] * (len(figures.names) + len(figures.outcomes) - len(cells))


def figures_text(figures: Figures) -> str:
    """The figures as a table: a row for each model and each difference."""
    names = [f"{x}: {one_line(harmless(n))}" for x, n in zip(LETTERS, figures.names, strict=False)]
    columns = [measure_cells(figures, measure) for measure in figures.measures]
    rows = [
        [name, *cells] for name, *cells in zip([*names, *figures.pair_names], *columns, strict=True)
    ]
    table = text_table(["", *(measure.name for measure in figures.measures)], rows)
    outcomes = "".join(f"{what}: {share}\n" for what, share in outcome_lines(figures))
    return f"{counts_text(figures)}\n{table}{outcomes}\n{HOW}\n"


def samples_text(aligned: Aligned, indices: Sequence[int]) -> str:
    """Prompts with every model's response below each other, their rewards, and what they failed."""
    names = [one_line(harmless(name)) for name in aligned.names]
    width = max(map(len, names))
    parts = []
    for index in indices:
        parts.append(f"--- {harmless(aligned.prompts[index].strip())}")
        for name, rows in zip(names, aligned.rows, strict=True):
            row = rows[index]
            failed = [score for score, value in row.get("scores", {}).items() if value is False]
            marks = f"{row['reward']:+.2f}" + "".join(f", not {score}" for score in failed)
            parts.append(f"  {name.ljust(width)} [{marks}] {harmless(row['response'].strip())}")
        parts.append("")
    return "\n".join(parts).expandtabs(4)


def pairs_text(aligned: Aligned, indices: Sequence[int]) -> str:
    """Prompts one below the other, the responses to each side by side, two in a row."""
    parts = []
    for number, index in enumerate(indices, start=1):
        parts.append(f"{'=' * (2 * COLUMN + 3)}\n{number}. {spread_text(aligned, index)}\n")
        prompt = _wrapped(aligned.prompts[index], 2 * COLUMN + 3)
        more = len(prompt) - PROMPT_LINES
        parts += prompt[:PROMPT_LINES] + ([f"[... {more} more lines]"] if more > 0 else [])
        columns = []
        for letter, rows in zip(LETTERS, aligned.rows, strict=False):
            title = f"{letter}, reward {rows[index]['reward']:.4g}"
            columns.append([title, "-" * COLUMN, *_wrapped(rows[index]["response"], COLUMN)])
        for left in range(0, len(columns), 2):
            parts.append("")
            parts += [
                f"{cells[0]:<{COLUMN}} | {cells[1]}".rstrip() if len(cells) > 1 else cells[0]
                for cells in itertools.zip_longest(*columns[left : left + 2], fillvalue="")
            ]
        parts.append("")
    return "\n".join(parts)


def spread_text(aligned: Aligned, index: int) -> str:
    """How far the rewards of the responses to one prompt are apart."""
    rewards = [rows[index]["reward"] for rows in aligned.rows]
    if len(rewards) == 1:
        return f"reward {rewards[0]:.4g}"
    if len(rewards) == 2:
        return f"A - B = {rewards[0] - rewards[1]:+.4g}"
    return f"difference {aligned.spread(index):.4g}"


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters."""
    lines: list[str] = []
    for line in harmless(text).expandtabs(4).split("\n"):
        lines += textwrap.wrap(line, width, replace_whitespace=False) or [""]
    return lines
