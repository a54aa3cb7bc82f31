"""Timing of calls, and the published algorithm timed on a part of the positions."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from published_coo import coo_kernel, penalty, union_support
from torch import Tensor


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of the process and the result of a call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, result


class Baseline:
    """The published algorithm on a part of the positions, extrapolated to all of them."""

    def __init__(self, table: Any, epsilon: float, top_k: int, solved: int, columns: bool) -> None:
        self.table, self.epsilon, self.top_k = table, epsilon, top_k
        self.solved, self.columns = solved, columns

    def __call__(self, policy: Tensor, reference: Tensor, actions: Tensor) -> Tensor:
        """f of the solved positions; ``seconds`` then holds the parts of the time."""

        def prepare() -> tuple[Tensor, Tensor]:
            softmaxes = policy.softmax(1), reference.softmax(1)
            support = union_support(*softmaxes, actions, self.top_k)
            return support, coo_kernel(self.table, support, self.epsilon)

        fixed, fixed_cpu, (support, kernel) = timed(prepare)
        self.support_size = len(support)

        def iterate(part: slice) -> Tensor:
            return penalty(
                self.table,
                policy[part],
                reference[part],
                actions[part],
                self.top_k,
                self.epsilon,
                support=support,
                kernel=kernel,
                columns=self.columns,
            )

        solved = min(self.solved or len(actions), len(actions))
        wall, cpu, f = timed(lambda: iterate(slice(solved)))
        self.linear = ""
        if solved < len(actions):
            half, quarter = solved // 2, solved // 4
            times = [timed(partial(iterate, slice(n)))[:2] for n in (quarter, half)]
            share = (len(actions) - solved) / (solved - half)
            wall += share * max(0.0, wall - times[1][0])
            cpu += share * max(0.0, cpu - times[1][1])
            self.linear = ", ".join(
                f"{n} positions {t:.2f} s"
                for n, t in ((quarter, times[0][0]), (half, times[1][0]), (len(actions), wall))
            )
        self.wall, self.cpu = fixed + wall, fixed_cpu + cpu
        return f
