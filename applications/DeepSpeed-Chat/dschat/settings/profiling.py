"""Which iterations are traced."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dschat.settings.command_line import flag, require


@dataclass
class ProfileFlags:
    """Where the time goes."""

    profile_steps: str | None = flag(
        None,
        "A:B: write a torch profiler trace of iterations A to B (counted from 1 as in "
        "metrics.jsonl, both included) of rank 0 to output_dir/profile, for chrome://tracing or "
        "ui.perfetto.dev. Traces grow by tens of MiB per iteration.",
    )


def profiled_iterations(text: str | None) -> range:
    """The iterations that `--profile_steps` names.

    Raises:
        UserError: the text is not A:B with 1 <= A <= B.
    """
    if text is None:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    require(
        1 <= first <= last,
        f"--profile_steps {text}: expected A:B, iterations counted from 1, both included, such as "
        "3:4.",
    )
    return range(first, last + 1)
