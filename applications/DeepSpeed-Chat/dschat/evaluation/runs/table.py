"""The numbers of a picture as a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from dschat.runtime.files import atomic_write_text

COLUMNS = ("figure", "group", "run", "step", "metric", "value")
Row: TypeAlias = tuple[str, str, str, int, str, float]


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows, one number each; a value that was not finite is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for *names, value in rows:
        writer.writerow([*names, repr(float(value)) if math.isfinite(value) else ""])
    atomic_write_text(path, text.getvalue())
