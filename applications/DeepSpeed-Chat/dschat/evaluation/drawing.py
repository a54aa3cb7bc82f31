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


def save_picture(figure: Any, path: Path) -> None:
    """Write the figure as a PNG; its folder is made.

    Raises:
        UserError: the disk is full or the folder may not be written to.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """The numbers of a picture as CSV, a row for each; a value that was not finite is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for *names, value in rows:
        writer.writerow([*names, repr(float(value)) if math.isfinite(value) else ""])
    atomic_write_text(path, text.getvalue())
