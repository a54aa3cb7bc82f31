"""How pictures look, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dschat.runtime.files import explain_write_errors

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
