"""Whether every field of metrics.jsonl is explained in docs/metrics.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from launch import ROOT

PLACEHOLDERS = {"ref_k": r"ref_\d+", "pass_at_k": r"pass_at_\d+", "found_by_FORM": r"found_by_\w+"}
PLACEHOLDERS |= {"reward/NAME": r"reward/[\w.-]+", "/PART": r"/\w+"}


@cache
def explained() -> list[re.Pattern[str]]:
    """The fields in the first columns of the page's tables; `ref_k` stands for `ref_0`, ..."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    patterns = [re.escape(name) for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    for name, pattern in PLACEHOLDERS.items():
        patterns = [p.replace(name, pattern) for p in patterns]
    of_each = [rf"{p}/ref_\d+" for p in patterns if p.startswith("penalty/")]
    return [re.compile(p) for p in [*patterns, *of_each]]


def unexplained(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The fields of these rows that the page does not explain."""
    fields = {field for row in rows for field in row}
    return {f for f in fields if not any(p.fullmatch(f) for p in explained())}
