"""A comparison as one HTML page that needs nothing else, and in which no model output acts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dschat.evaluation.comparison.figures import LETTERS, Figures
from dschat.evaluation.comparison.pairing import Aligned
from dschat.evaluation.comparison.report import (
    HOW,
    counts_text,
    harmless,
    measure_cells,
    outcome_lines,
    spread_text,
)

# Nothing is loaded and no script runs, even if something should get past the escaping.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
TITLE = "Comparison of responses"

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --quiet: #566173; --line: #cbd5e1;
  --page: #ffffff; --panel: #f5f7fa; --a: #0f766e; --b: #b4431b; --c: #4f46a5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9f0; --quiet: #a3adbd; --line: #3b4656;
  --page: #12161d; --panel: #1b212b; --a: #5eead4; --b: #fdba8c; --c: #c4b5fd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.quiet { color: var(--quiet); font-size: .875rem; }
table { width: 100%; border-collapse: collapse; margin-bottom: 1rem; }
.measures th { white-space: nowrap; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; font-variant-numeric: tabular-nums; }
section { border-top: 2px solid var(--line); margin-top: 1.5rem; }
.text { white-space: pre-wrap; overflow: auto; max-height: 28rem; margin: 0; padding: .6rem .75rem;
  background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; line-height: 1.5;
  unicode-bidi: isolate; contain: paint; }
.prompt { max-height: 14rem; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .75rem; }
.a { color: var(--a); } .b { color: var(--b); } .c { color: var(--c); }
.wide { overflow-x: auto; }
h3 { font-size: .95rem; margin: .8rem 0 .3rem; }
@media (max-width: 44rem) { .pair { grid-template-columns: minmax(0, 1fr); }
  th, td { padding: .3rem .25rem; font-size: .85rem; } }
"""


def page(figures: Figures, aligned: Aligned, indices: Sequence[int]) -> str:
    """The page.

    Args:
        indices: of the prompts that are shown in full, the largest difference first.
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<h1>{TITLE}</h1>",
        _names(figures.names),
        f"<p>{_shown(counts_text(figures))}</p>",
        _measures(figures),
        _outcomes(figures),
        f'<p class="quiet">{_shown(HOW)}</p>',
    ]
    if indices:
        several = len(figures.names) > 1
        what = "largest differences of the rewards" if several else "first responses"
        parts.append(f"<h2>The {len(indices)} {what}</h2>")
    parts += [_prompt(number, aligned, i) for number, i in enumerate(indices, start=1)]
    return "\n".join([*parts, "</main>\n</body>\n</html>\n"])


def _shown(text: str) -> str:
    return escape(harmless(text), quote=True)


def _letter(letter: str, tag: str, more: str = "") -> str:
    """The letter of a model in its colour; there are three colours."""
    return f'<{tag}{more} class="{"abc"[LETTERS.index(letter) % 3]}">{letter}</{tag}>'


def _names(names: Sequence[str]) -> str:
    each = (
        f"{_letter(letter, 'b')} <bdi>{_shown(name)}</bdi>"
        for letter, name in zip(LETTERS, names, strict=False)
    )
    return f"<p>{'<br>'.join(each)}</p>"


def _measures(figures: Figures) -> str:
    letters = LETTERS[: len(figures.names)]
    head = "".join(_letter(letter, "th", ' scope="col"') for letter in letters)
    head += "".join(f'<th scope="col">{name.replace("-", "−")}</th>' for name in figures.pair_names)
    rows = "".join(
        f'<tr><th scope="row">{_shown(m.name)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in measure_cells(figures, m))
        + "</tr>\n"
        for m in figures.measures
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="figures">\n<table '
        f'class="measures">\n<tr><td></td>{head}</tr>\n{rows}</table>\n</div>'
    )


def _outcomes(figures: Figures) -> str:
    rows = "".join(
        f'<tr><th scope="row">{what}</th><td>{share}</td></tr>\n'
        for what, share in outcome_lines(figures)
    )
    return f"<table>\n{rows}</table>"


def _prompt(number: int, aligned: Aligned, index: int) -> str:
    responses = "".join(
        f"<div><h3>{_letter(letter, 'b')} reward {rows[index]['reward']:.4g}</h3>"
        f"{_text(rows[index]['response'], f'response of {letter}')}</div>\n"
        for letter, rows in zip(LETTERS, aligned.rows, strict=False)
    )
    return (
        f"<section>\n<h2>{number}. {spread_text(aligned, index).replace('A - B', 'A − B')}</h2>\n"
        f"<h3>Prompt</h3>\n{_text(aligned.prompts[index], 'prompt', 'prompt')}\n"
        f'<div class="pair">\n{responses}</div>\n</section>'
    )


def _text(text: str, label: str, kind: str = "") -> str:
    """A box that scrolls by itself, also by keyboard; each text sets its own direction."""
    return (
        f'<div class="text {kind}" dir="auto" tabindex="0" role="region" '
        f'aria-label="{label}">{_shown(text) or "<i>(empty)</i>"}</div>'
    )
