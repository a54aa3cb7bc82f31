"""Links and anchors of README.md, CHANGELOG.md and docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, anchors, links, page_id, prose

PACKAGE = ROOT / "applications/DeepSpeed-Chat/dschat"
HISTORY = ("log.md", "CHANGELOG.md")
README_LINES = 200


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert not broken


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(PAGES[0].read_text())}
    pages = [page for page in PAGES[1:] if page.parent.name != "tests"]
    assert [page.name for page in pages if page not in linked] == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in HISTORY], ids=page_id)
def test_files_named_in_the_text_exist(page: Path) -> None:
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|sh|md))`", prose(page.read_text()))
    folders = [ROOT, PACKAGE, PACKAGE.parent, page.parent]
    missing = [name for name in named if not any((f / name).exists() for f in folders)]
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= README_LINES


def test_anchors_are_those_of_github() -> None:
    text = "# One, *two*\n```\n# no heading\n```\n## A [link](x.md): `code_it`\n## A\n## A\n"
    assert anchors(text) == {"one-two", "a-link-code_it", "a", "a-1"}
