"""How seconds and memory of the penalties grow with vocabulary, positions and top_k.

    python benchmarks/penalty.py --scaling

One size varies at a time around ``BASE``. CPU seconds are the less of two calls; extra peak
memory is that of the first. The exponent is that of the power law through the first and the last
size. Logits are Zipf-like. The published penalty runs at its epsilon of 0.01, where the kernel is
the identity and only the smallest costs are looked at: its table of nearest tokens, whose build
grows with the square of the vocabulary, is made up.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from dschat.regularization import KLDivergence, SinkhornDivergence, TruncatedWasserstein
from dschat.regularization.ground.nearest_table import NearestTable
from dschat.regularization.ground.table_cache import NearestTokens
from inputs import embeddings, logits
from memory import extra_peak
from yardstick import timed

BASE = {"vocabulary": 16_000, "positions": 64, "top_k": 128}
SIZES = {
    "vocabulary": (4_000, 16_000, 64_000, 256_000),
    "positions": (64, 256, 1024),
    "top_k": (32, 64, 128, 256, 512),
}
POSITIONS_OVER_VOCABULARY = 32
DIMENSION, STEP, FAR = 64, 0.3, 10.0

Growth = dict[str, dict[str, list[tuple[int, float, float]]]]
"""By size that varies, by penalty: (size, CPU seconds, MiB)."""


class FarTable(NearestTable):
    """Every token's only neighbour is out of reach."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self._place = torch.arange(vocabulary)
        self._found = NearestTokens(
            torch.zeros(vocabulary, 1, dtype=torch.int32), torch.full((vocabulary, 1), FAR)
        )


def penalties(vocabulary: int, top_k: int) -> dict[str, Callable[..., Any]]:
    """Regularisers by name."""
    points = embeddings(vocabulary, DIMENSION)
    truncated = TruncatedWasserstein(points[:2], top_k=top_k)
    truncated.table = FarTable(vocabulary)
    return {
        "KL, exact": KLDivergence("exact"),
        "TruncatedWasserstein": truncated,
        "SinkhornDivergence": SinkhornDivergence(points, top_k, 0.05),
    }


def growth() -> Growth:
    """Measure and print the tables."""
    measured: Growth = {}
    for varied, sizes in SIZES.items():
        lines: dict[str, list[tuple[int, float, float]]] = {}
        fixed = dict(BASE)
        if varied == "vocabulary":
            fixed["positions"] = POSITIONS_OVER_VOCABULARY
        for size in sizes:
            setting = {**fixed, varied: size}
            batch = logits("zipf", setting["positions"], setting["vocabulary"], STEP)
            named = penalties(setting["vocabulary"], setting["top_k"])
            for name, penalty in named.items():
                seconds, memory = cost(partial(penalty, *batch))
                lines.setdefault(name, []).append((size, seconds, memory))
        measured[varied] = lines
        show(varied, {k: v for k, v in fixed.items() if k != varied}, lines)
    return measured


def cost(call: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds and MiB of a call."""
    gc.collect()
    (_, first, _), memory = extra_peak(lambda: timed(call))
    seconds = min(first, timed(call)[1])
    return seconds, math.nan if memory == "?" else float(memory)


def show(
    varied: str, fixed: dict[str, int], lines: dict[str, list[tuple[int, float, float]]]
) -> None:
    """Print the table over one size."""
    sizes = [size for size, _, _ in next(iter(lines.values()))]
    others = ", ".join(f"{name} {size}" for name, size in fixed.items())
    print(f"\nover {varied} ({others}, {torch.get_num_threads()} threads)")
    print(f"  {'CPU seconds':22}" + "".join(f"{size:>10,}" for size in sizes) + "  exponent")
    for name, points in lines.items():
        seconds = [s for _, s, _ in points]
        power = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
        print(f"  {name:22}" + "".join(f"{s:10.4f}" for s in seconds) + f"{power:10.2f}")
    print("  extra peak MiB")
    for name, points in lines.items():
        print(f"  {name:22}" + "".join(f"{memory:10.0f}" for _, _, memory in points))
