"""The page of a comparison holds what models write, which may be anything, and nothing of it acts.

Where there is a Chromium it is looked at in there.
"""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import find_browser, look_at
from dschat.evaluation.comparison.figures import Measuring, figures_of
from dschat.evaluation.comparison.page import POLICY, TITLE, page
from dschat.evaluation.comparison.pairing import Aligned, align
from dschat.evaluation.comparison.report import (
    LONGEST_SHOWN,
    figures_text,
    harmless,
    pairs_text,
    samples_text,
)

BROWSER = find_browser()
HOSTILE = [
    "<script>document.title='owned'</script>",
    "</div></section></main><img src=x onerror=\"document.title='owned'\">",
    "</title></style><script>parent.document.title='owned'</script>",
    "<style>body { display: none }</style>",
    '" onmouseover="x" tabindex="1',
    "&lt;script&gt; &amp; ' `",
    "W" * 5000,
    "\u202egnp.exe\u2066 \u2069",
    "\x00\x1b[2J\x07\x9b",
    "half \ud800 of one",
    "Z" + "\u0301" * 400,
    "مرحبا بالعالم",
    "日本語" * 200,
    "",
]


class Elements(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def hostile(models: int = 2) -> Aligned:
    files = [
        [
            {"prompt": f"prompt {text}", "response": text[:: 1 - 2 * side], "reward": float(i)}
            for i, text in enumerate(HOSTILE)
        ]
        for side in (0, 1, 0)[:models]
    ]
    names = ["<script>a</script>" + "n" * 300, "b\u202e", "\x1b[2J"][:models]
    return align(names, files, names)


def hostile_page(models: int = 2) -> str:
    aligned = hostile(models)
    figures = figures_of(aligned, Measuring(0, 200))
    return page(figures, aligned, range(len(HOSTILE)))


@pytest.mark.parametrize("models", [1, 2, 3])
def test_nothing_but_the_pages_own_elements(models: int) -> None:
    text = hostile_page(models)
    elements = Elements()
    elements.feed(text)
    assert not {"script", "img", "iframe", "svg"} & set(elements.tags)
    assert elements.tags.count("style") == 1
    assert not {name for name in elements.attributes if name.startswith("on")}
    assert elements.tags.count("section") == len(HOSTILE)
    assert POLICY in text
    assert not re.search(r"(src|href|url)\s*[=(]", re.sub(r"&[^;]+;|>[^<]*<", "><", text))
    text.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_what_is_shown_is_what_was_written() -> None:
    shown = [
        unescape(t) for t in re.findall(r'aria-label="response of A">(.*?)</div>', hostile_page())
    ]
    assert shown[:7] == HOSTILE[:7]
    assert shown[9] == "half \ufffd of one"
    assert shown[-1] == "<i>(empty)</i>"


def test_harmless_text() -> None:
    assert harmless("a\r\nb\tc") == "a\nb\tc"
    assert harmless("\u202ea\x1b\ud800") == "\ufffda\ufffd\ufffd"
    long = harmless("x" * (LONGEST_SHOWN + 5))
    assert long.endswith("x [... 5 more characters]")


@pytest.mark.parametrize("models", [1, 3])
def test_the_plain_text_is_harmless_too(models: int) -> None:
    aligned = hostile(models)
    everything = range(len(HOSTILE))
    pairs = pairs_text(aligned, everything)
    figures = figures_text(figures_of(aligned, Measuring(0, 200)))
    for text in (pairs, samples_text(aligned, everything), figures):
        text.encode("utf-8")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert max(map(len, pairs.splitlines())) <= 119


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_in_a_browser(width: int, tmp_path: Path) -> None:
    # Escaping has to hold by itself: without the rule that no script may run.
    text = hostile_page().replace(POLICY, "")
    path = tmp_path / "comparison.html"
    path.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    found = look_at(BROWSER, path, width, tmp_path)
    assert found["title"] == TITLE
    assert found["scripts"] == 0
    assert found["display"] == "block"
    assert found["client"] in range(width - 20, width + 1)
    assert found["scroll"] <= found["client"]
    assert found["wide"] == 0
    assert found["texts"][1] == HOSTILE[0]
    # The harness itself sees a script that runs.
    path.write_text(text.replace("<main>", f"<main>{HOSTILE[0]}"), encoding="utf-8")
    assert look_at(BROWSER, path, width, tmp_path)["title"] == "owned"
