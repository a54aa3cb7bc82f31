"""A comparison as one HTML page that needs nothing else, and in which no model output acts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dschat.evaluation.responses.figures import Figures
from dschat.evaluation.responses.pairing import Pair
from dschat.evaluation.responses.report import HOW, counts_text, estimate_text, share_text
from dschat.evaluation.responses.texts import harmless

# Nothing is loaded and no script runs, even if something should get past the escaping.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
TITLE = "Comparison of responses"

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --quiet: #566173; --line: #cbd5e1;
  --page: #ffffff; --panel: #f5f7fa; --a: #0f766e; --b: #b4431b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9f0; --quiet: #a3adbd; --line: #3b4656;
  --page: #12161d; --panel: #1b212b; --a: #5eead4; --b: #fdba8c; } }
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
.a { color: var(--a); } .b { color: var(--b); }
h3 { font-size: .95rem; margin: .8rem 0 .3rem; }
@media (max-width: 44rem) { .pair { grid-template-columns: minmax(0, 1fr); }
  th, td { padding: .3rem .25rem; font-size: .85rem; } }
"""


def page(figures: Figures, pairs: Sequence[Pair], names: tuple[str, str]) -> str:
    """The page.

    Args:
        pairs: those that are shown in full, the largest difference first.
        names: of A and B.
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<h1>{TITLE}</h1>",
        _names(names),
        f"<p>{_shown(counts_text(figures))}</p>",
        _measures(figures),
        _outcomes(figures),
        f'<p class="quiet">{_shown(HOW)}</p>',
    ]
    if pairs:
        parts.append(f"<h2>The {len(pairs)} largest differences of the rewards</h2>")
    parts += [_pair(number, pair) for number, pair in enumerate(pairs, start=1)]
    return "\n".join([*parts, "</main>\n</body>\n</html>\n"])


def _shown(text: str) -> str:
    return escape(harmless(text), quote=True)


def _names(names: tuple[str, str]) -> str:
    a, b = map(_shown, names)
    return f'<p><b class="a">A</b> <bdi>{a}</bdi><br><b class="b">B</b> <bdi>{b}</bdi></p>'


def _measures(figures: Figures) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_shown(m.name)}</th>'
        + "".join(f"<td>{estimate_text(e)}</td>" for e in (m.a, m.b, m.difference))
        + "</tr>\n"
        for m in figures.measures
    )
    return (
        '<table class="measures">\n<tr><td></td><th scope="col" class="a">A</th>'
        f'<th scope="col" class="b">B</th><th scope="col">A − B</th></tr>\n{rows}</table>'
    )


def _outcomes(figures: Figures) -> str:
    named = (
        ("A has the higher reward", figures.wins),
        ("B has the higher reward", figures.losses),
        ("the same reward", figures.ties),
    )
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{share_text(share)}</td></tr>\n'
        for name, share in named
    )
    return f"<table>\n{rows}</table>"


def _pair(number: int, pair: Pair) -> str:
    responses = "".join(
        f'<div><h3><b class="{side.lower()}">{side}</b> reward {reward:.4g}</h3>'
        f"{_text(response, f'response of {side}')}</div>\n"
        for side, reward, response in zip("AB", pair.rewards, pair.responses, strict=True)
    )
    return (
        f"<section>\n<h2>{number}. A − B = {pair.difference:+.4g}</h2>\n<h3>Prompt</h3>\n"
        f'{_text(pair.prompt, "prompt", "prompt")}\n<div class="pair">\n{responses}</div>\n'
        "</section>"
    )


def _text(text: str, label: str, kind: str = "") -> str:
    """A box that scrolls by itself, also by keyboard; each text sets its own direction."""
    return (
        f'<div class="text {kind}" dir="auto" tabindex="0" role="region" '
        f'aria-label="{label}">{_shown(text) or "<i>(empty)</i>"}</div>'
    )
