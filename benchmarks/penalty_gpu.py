"""Milliseconds and memory of the Sinkhorn divergence on a GPU, stage by stage.

    python benchmarks/penalty.py --preset h200
    python benchmarks/penalty.py --preset small        # a rehearsal on any machine

Logits and embeddings are made on the device: Zipf-like logits in bf16, policy = reference + 0.3 x
normal. Each time is the median of ``repeats`` calls after a first one, which compiles. "transport"
is the solver alone; "costs" are the distances between a position's tokens; "truncation" is the
choice of the likeliest tokens and the masses in their tails, over both logits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from dschat.regularization import KLDivergence, SinkhornDivergence, sinkhorn
from dschat.regularization.transport.sinkhorn_solver import Potentials
from dschat.regularization.transport.truncation import truncate
from torch import Tensor

GIB = 2**30


class Preset(NamedTuple):
    """Sizes of one measurement, and what is aimed at."""

    positions: int
    vocabulary: int
    dimension: int
    top_k: int
    repeats: int
    needs_gpu: bool
    aim: str


PRESETS = {
    # The vocabulary and width of a model such as Gemma 2B; 8 responses of 256 tokens.
    "h200": Preset(
        8 * 256,
        256_000,
        2048,
        128,
        10,
        needs_gpu=True,
        aim="transport at most 5 ms, whole penalty at most 10 ms, extra memory below 1.5 GiB",
    ),
    "small": Preset(64, 8_000, 64, 128, 3, needs_gpu=False, aim="none: a rehearsal"),
}


def run_preset(preset: Preset) -> None:
    """Measure and print the stages."""
    if preset.needs_gpu and not torch.cuda.is_available():
        raise SystemExit("this preset needs a CUDA GPU, and torch sees none: try --preset small")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy, reference, actions = _batch(preset, device)
    points = torch.randn(preset.vocabulary, preset.dimension, device=device)
    stages: dict[str, list[float]] = {}
    solver = Stopwatch(stages)
    regulariser = SinkhornDivergence(points, preset.top_k, 0.05, solver=solver)
    regulariser.distance.block = watched(  # type: ignore[method-assign]
        regulariser.distance.block, "costs", stages
    )
    whole = watched(regulariser, "whole, with stages watched", stages)
    plain = watched(SinkhornDivergence(points, preset.top_k, 0.05), "whole penalty", stages)
    kl = watched(KLDivergence("exact"), "KL, exact", stages)
    cut = watched(_truncated, "truncation", stages)
    penalty, memory = None, 0.0
    for repeat in range(preset.repeats + 1):
        # Of a stage with several blocks, the blocks of a call count together.
        counts = {name: len(times) for name, times in stages.items()}
        cut(policy, reference, preset.top_k)
        whole(policy, reference, actions)
        kl(policy, reference, actions)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        penalty = plain(policy, reference, actions)
        if device.type == "cuda":
            memory = (torch.cuda.max_memory_allocated() - before) / GIB
        for name, times in stages.items():
            start = counts.get(name, 0)
            times[start:] = [sum(times[start:])] if repeat else []
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}: {preset}")
    for stage, times in stages.items():
        print(f"  {stage:28} {1e3 * statistics.median(times):9.2f} ms")
    found = f"{memory:.2f} GiB" if device.type == "cuda" else "not measured without a GPU"
    print(f"  {'extra peak memory':28} {found}")
    print(f"  {penalty.metrics if penalty else ''}\n  aim: {preset.aim}")


class Stopwatch:
    """The default solver, timed."""

    def __init__(self, stages: dict[str, list[float]]) -> None:
        self.stages = stages

    def __call__(
        self, log_policy: Tensor, log_reference: Tensor, costs: Tensor, max_iter: int, tol: float
    ) -> Potentials:
        solve = watched(sinkhorn.default_solver(costs), "transport", self.stages)
        solved: Potentials = solve(log_policy, log_reference, costs, max_iter, tol)
        return solved


def watched(
    call: Callable[..., Any], name: str, stages: dict[str, list[float]]
) -> Callable[..., Any]:
    """The call, with its seconds added to ``stages[name]``."""

    def run(*arguments: Any) -> Any:
        _wait()
        begin = time.perf_counter()
        result = call(*arguments)
        _wait()
        stages.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    return run


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _truncated(policy: Tensor, reference: Tensor, top_k: int) -> None:
    rows = sinkhorn.rows_per_block(policy)
    for pair in zip(policy.split(rows), reference.split(rows), strict=True):
        truncate(*pair, top_k)


def _batch(preset: Preset, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """bf16 logits [N, V] twice and tokens [N], made row block by row block."""
    generator = torch.Generator(device).manual_seed(1)
    shape = preset.positions, preset.vocabulary
    policy, reference = (torch.empty(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
    rank = 1 + torch.randperm(preset.vocabulary, generator=generator, device=device)
    actions = []
    for rows in torch.arange(preset.positions, device=device).split(64):
        noise = torch.randn(2, len(rows), shape[1], generator=generator, device=device)
        reference[rows] = (2 * noise[0] - rank.log()).bfloat16()
        policy[rows] = (2 * noise[0] - rank.log() + 0.3 * noise[1]).bfloat16()
        probabilities = policy[rows].float().softmax(1)
        actions.append(probabilities.multinomial(1, generator=generator).squeeze(1))
    return policy, reference, torch.cat(actions)
