"""The pages of documentation, taken apart: links, anchors and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "tests/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^()\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"([A-Z_0-9]+=\S+ )*(python|bash|deepspeed|torchrun|pip|pytest|dschat-)\S* ")


def page_id(page: Path) -> str:
    """For the tests' ids."""
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", text)


def links(text: str) -> list[str]:
    """The targets of links and images outside code."""
    return LINK.findall(INLINE.sub("", prose(text)))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", prose(text), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", name) is not None for name in found)
        found.add(f"{slug}-{again}" if again else slug)
    return found


@dataclass(frozen=True)
class Command:
    """A command line of a page.

    Attributes:
        page: its file. words: without variables before it. folder: where it runs, as far as the
            block says.
    """

    page: Path
    words: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"


def commands(page: Path) -> Iterator[Command]:
    """The commands in ```bash blocks, and those in `...` that match `COMMAND`."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language == "bash":
            folder = ROOT
            for line in block.replace("\\\n", " ").splitlines():
                for words in _split(line):
                    if words[0] == "cd":
                        folder = folder / words[1]
                    else:
                        yield Command(page, words, folder)
    for inline in INLINE.findall(prose(text)):
        if COMMAND.match(inline):
            for words in _split(inline):
                yield Command(page, words, ROOT)


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line, without comments and variables."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word not in ("&&", ";", "|"):
            words.append(word)
            continue
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            del words[0]
        if words:
            yield tuple(words)
        words = []
