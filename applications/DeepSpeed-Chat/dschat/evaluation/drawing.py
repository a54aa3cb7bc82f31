"""How pictures look, and how they and their numbers are written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from dschat.runtime.files import atomic_write_text, explain_write_errors

COLUMNS = ("figure", "group", "run", "step", "metric", "value")
Row: TypeAlias = tuple[str, str, str, int, str, float]

GREY, INK, LINE, EDGE = "#8a94a6", "#1f2937", "#64748b", "#cbd5e1"
DPI = 150


@contextmanager
def drawing() -> Iterator[Any]:
    """`matplotlib.pyplot` without a display and with the same settings on every machine."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    settings = {**mpl.rcParamsDefault, "backend": "Agg", "axes.edgecolor": EDGE}
    with mpl.rc_context(settings):
        yield plt
        plt.close("all")


FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Spreadsheets of some languages take the full-width forms too."""


def save_picture(figure: Any, path: Path) -> None:
    """Write the figure as a PNG; its folder is made.

    Raises:
        UserError: the disk is full or the folder may not be written to.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _defused(cell: object) -> object:
    """A text that a spreadsheet would run as a formula, with an apostrophe before it.

    Source: OWASP, CSV Injection. Numbers stay as they are.
    """
    if not isinstance(cell, str) or not cell.lstrip().startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """The numbers of a picture as CSV, a row for each; a value that was not finite is empty.

    A name that begins like a formula (`=`, `+`, `-`, `@`) gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for *names, value in rows:
        writer.writerow([*map(_defused, names), repr(float(value)) if math.isfinite(value) else ""])
    atomic_write_text(path, text.getvalue())
