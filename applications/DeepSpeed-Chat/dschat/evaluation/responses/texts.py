"""Model output as it may be shown: without characters that change how others are shown."""

from __future__ import annotations

from dschat.evaluation.judging.terminal import printable

# Embeddings, overrides and isolates of the writing direction (Unicode, UAX 9).
DIRECTIONS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONGEST_SHOWN = 20_000


def harmless(text: str) -> str:
    """The text without control characters, lone surrogates and changes of direction.

    Each becomes U+FFFD. Of a very long text the beginning is kept, and how much was cut is said.
    """
    shown = printable(text[:LONGEST_SHOWN].replace("\r\n", "\n"))
    shown = shown.translate(dict.fromkeys(DIRECTIONS, REPLACEMENT))
    cut = len(text) - LONGEST_SHOWN
    return shown + (f" [... {cut} more characters]" if cut > 0 else "")
