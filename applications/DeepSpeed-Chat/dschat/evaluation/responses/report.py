"""A comparison as plain text."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

from dschat.evaluation.comparison_output import text_table
from dschat.evaluation.responses.figures import Figures, Share
from dschat.evaluation.responses.pairing import Pair
from dschat.evaluation.responses.texts import harmless
from dschat.runtime.statistics import Estimate

COLUMN = 58
PROMPT_LINES = 12
HOW = (
    "[a, b]: 95 % intervals; of means by bootstrap over prompts (BCa), of shares after Wilson. "
    "A prompt with several responses counts once, by their mean."
)


def estimate_text(estimate: Estimate) -> str:
    """Mean and interval."""
    if estimate.low is None:
        return f"{estimate.mean:.4g}"
    return f"{estimate.mean:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def share_text(share: Share) -> str:
    """Share and interval."""
    return f"{share.share:.1%} [{share.low:.1%}, {share.high:.1%}]"


def counts_text(figures: Figures) -> str:
    """How much was compared."""
    text = f"{figures.pairs} pairs of responses to {figures.prompts} prompts"
    if any(figures.unpaired):
        a, b = figures.unpaired
        text += f"; left out, because their prompt is in one file only: {a} of A, {b} of B"
    return text


def figures_text(figures: Figures, names: tuple[str, str]) -> str:
    """The figures as a table."""
    a, b = map(harmless, names)
    rows = [
        [m.name, *(estimate_text(e) for e in (m.a, m.b, m.difference))] for m in figures.measures
    ]
    outcomes = (
        f"A has the higher reward: {share_text(figures.wins)}\n"
        f"B has the higher reward: {share_text(figures.losses)}\n"
        f"the same reward:         {share_text(figures.ties)}\n"
    )
    head = f"A: {a}\nB: {b}\n{counts_text(figures)}\n"
    return head + text_table(["", "A", "B", "A - B"], rows) + f"{outcomes}\n{HOW}\n"


def pairs_text(pairs: Sequence[Pair]) -> str:
    """The pairs one below the other, the two responses side by side."""
    parts = []
    for number, pair in enumerate(pairs, start=1):
        parts.append(f"{'=' * (2 * COLUMN + 3)}\n{number}. A - B = {pair.difference:+.4g}\n")
        prompt = _wrapped(pair.prompt, 2 * COLUMN + 3)
        more = len(prompt) - PROMPT_LINES
        parts += prompt[:PROMPT_LINES] + ([f"[... {more} more lines]"] if more > 0 else [])
        columns = []
        for side in (0, 1):
            title = f"{'AB'[side]}, reward {pair.rewards[side]:.4g}"
            columns.append([title, "-" * COLUMN, *_wrapped(pair.responses[side], COLUMN)])
        parts.append("")
        parts += [
            f"{left:<{COLUMN}} | {right}".rstrip()
            for left, right in itertools.zip_longest(*columns, fillvalue="")
        ]
        parts.append("")
    return "\n".join(parts)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters."""
    lines: list[str] = []
    for line in harmless(text).expandtabs(4).split("\n"):
        lines += textwrap.wrap(line, width, replace_whitespace=False) or [""]
    return lines
