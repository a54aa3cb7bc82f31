"""Seconds, memory and accuracy of every regulariser beside the published algorithm.

    python benchmarks/penalty.py --threads 1          # 4,000 tokens, under two minutes
    python benchmarks/penalty.py --vocabularies 4000,32000 --cost_dim 512 --top_k 128 \
        --logits flat --baseline_positions 16         # minutes
    python benchmarks/penalty.py --figure assets/penalty_speed.png
    python benchmarks/penalty.py --scaling --figure assets/penalty_scaling.png     # a minute
    python benchmarks/penalty.py --preset h200        # on that GPU: 2048 positions, 256,000 tokens

All get the same logits in one process, in turn, ``--repeats`` times; the least wall time counts,
with the process's CPU time in that call beside it. "published, COO" is `published_coo.py`, on
``--baseline_positions`` of the positions (0 for all) with the support and kernel of all of them;
the time of the rest is extrapolated along the line through that number and half of it; "linear?"
shows a quarter, half and all. On a busy machine compare with ``--threads 1``: threads that wait
for each other measure the neighbours. Tables of nearest tokens and centred embeddings, made once
per model, are not in the times. A second table compares with full transport on a small vocabulary.
``--scaling`` and ``--preset`` print other tables: see `penalty_scaling.py` and `penalty_gpu.py`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from dschat.regularization import (
    FDivergence,
    KLDivergence,
    SinkhornDivergence,
    TruncatedWasserstein,
    nearest_tokens,
)
from inputs import LOGITS, embeddings, logits
from memory import extra_peak
from penalty_accuracy import against_full
from penalty_gpu import PRESETS, run_preset
from penalty_scaling import growth
from torch import Tensor
from yardstick import Baseline, timed

PUBLISHED_EPSILON = 0.01
SMALL_VOCABULARY = 200


def regularisers(options: argparse.Namespace, points: Tensor, table: Any) -> dict[str, Any]:
    """By name; None stands for the settings of the published penalty."""
    dense = float(table.costs.median()) / 3
    result: dict[str, Any] = {
        "KL": KLDivergence(),
        "KL, exact": KLDivergence("exact"),
        "JS": FDivergence("js", form="gradient"),
    }
    for label, epsilon in (("dense kernel", dense), ("published eps", PUBLISHED_EPSILON)):
        for layout, columns in (("rows", False), ("columns", True)):
            result[f"published, COO {layout}, {label}"] = Baseline(
                table, epsilon, options.top_k, options.baseline_positions, columns
            )
        result[f"TruncatedWasserstein, {label}"] = TruncatedWasserstein(
            points,
            cost_dim=options.cost_dim,
            top_k=options.top_k,
            epsilon=epsilon,
            cache_dir=options.cache_dir,
        )
    for epsilon in options.epsilons:
        result[f"SinkhornDivergence, eps {epsilon:g}"] = SinkhornDivergence(
            points, options.sinkhorn_top_k, epsilon
        )
    return result


def measure(options: argparse.Namespace, vocabulary: int) -> dict[str, dict[str, Any]]:
    """Wall and CPU seconds, extra memory and results by regulariser."""
    points = embeddings(vocabulary, options.dimension).to(options.device)
    table = nearest_tokens(points, options.cost_dim, cache_dir=options.cache_dir)
    policy, reference, actions = (
        each.to(options.device)
        for each in logits(options.logits, options.positions, vocabulary, options.step)
    )
    found: dict[str, dict[str, Any]] = {}
    named = regularisers(options, points, table)
    for repeat in range(options.repeats):
        for name, regulariser in named.items():
            if isinstance(regulariser, Baseline) and repeat and options.baseline_positions:
                continue

            def call(regulariser: Any = regulariser) -> tuple[float, float, Any]:
                if isinstance(regulariser, TruncatedWasserstein):
                    # Another batch has another support: its kernel belongs to the cost.
                    regulariser._last_kernel = None
                return timed(lambda: regulariser(policy, reference, actions))

            (wall, cpu, result), memory = extra_peak(call)
            if isinstance(regulariser, Baseline):
                wall, cpu = regulariser.wall, regulariser.cpu
            row = found.setdefault(name, {"wall": wall, "cpu": cpu, "memory": memory})
            row.update(result=result, regulariser=regulariser)
            if wall < row["wall"]:
                row.update(wall=wall, cpu=cpu)
    return found


def show(found: dict[str, dict[str, Any]], vocabulary: int, options: argparse.Namespace) -> None:
    """Print the table of one vocabulary."""
    print(
        f"\n{options.positions} positions, {vocabulary} tokens, {options.logits} logits, "
        f"k1 {options.cost_dim}, k2 {options.top_k}, top_k of the Sinkhorn divergence "
        f"{options.sinkhorn_top_k}"
    )
    print(f"  {'':40} {'wall s':>8} {'CPU s':>8} {'MiB':>6}  {'times faster than COO rows':>26}")
    for name, row in found.items():
        label = name.rsplit(", ", 1)[-1]
        rival = found.get(f"published, COO rows, {label}")
        if rival is None:
            rival = found["published, COO rows, published eps"]
        ratio = rival["wall"] / row["wall"]
        print(
            f"  {name:40} {row['wall']:8.3f} {row['cpu']:8.3f} {row['memory']:>6} {ratio:18.1f}",
            notes(name, row, found),
        )


def notes(name: str, row: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """What else there is to say of a line."""
    regulariser, result = row["regulariser"], row["result"]
    if isinstance(regulariser, Baseline):
        text = f"support {regulariser.support_size}"
        return f"{text}; linear? {regulariser.linear}" if regulariser.linear else text
    if isinstance(regulariser, TruncatedWasserstein):
        label = name.rsplit(", ", 1)[-1]
        f = found[f"published, COO rows, {label}"]["result"]
        error = (result.token[: len(f)] - f).abs().max() / f.abs().max()
        return f"f differs from COO by {float(error):.0e}"
    if isinstance(regulariser, SinkhornDivergence):
        m = result.metrics
        return f"{m['iterations']:.1f} updates, converged {m['converged']:.0%}"
    return ""


def numbers(text: str) -> list[float]:
    """Comma-separated numbers of a flag."""
    return [float(each) for each in text.split(",")]


def main() -> None:
    """Parse the flags, measure, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocabularies", type=numbers, default=[4000.0], help="comma-separated")
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--dimension", type=int, default=64, help="of the embeddings")
    parser.add_argument("--logits", choices=LOGITS, default="zipf")
    parser.add_argument("--step", type=float, default=0.3, help="policy minus reference logits")
    parser.add_argument("--cost_dim", type=int, default=128, help="k1 of the published penalty")
    parser.add_argument("--top_k", type=int, default=64, help="k2 of the published penalty")
    parser.add_argument("--sinkhorn_top_k", type=int, default=128)
    parser.add_argument("--epsilons", type=numbers, default=[0.05, 0.2], help="comma-separated")
    parser.add_argument("--baseline_positions", type=int, default=0, help="0: all are solved")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache_dir", help="folder for tables of nearest tokens")
    parser.add_argument("--figure", help="file for the plot")
    parser.add_argument("--scaling", action="store_true", help="growth with each size instead")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="sizes for one kind of GPU")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.preset:
        run_preset(PRESETS[options.preset])
        return
    if options.scaling:
        measured_growth = growth()
        if options.figure:
            from penalty_figures import draw_scaling

            draw_scaling(options.figure, measured_growth)
        return
    processor = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} CPU cores"
    )
    print(f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("load average at the start: {:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()))
    measured = {}
    for vocabulary in map(int, options.vocabularies):
        measured[vocabulary] = measure(options, vocabulary)
        show(measured[vocabulary], vocabulary, options)
    small = embeddings(SMALL_VOCABULARY, options.dimension)
    table = nearest_tokens(small, options.cost_dim)
    others = {
        name: each
        for name, each in regularisers(options, small, table).items()
        if not isinstance(each, Baseline)
    }
    against_full(others, small, options.epsilons, options.logits, options.step)
    print("load average at the end: {:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()))
    if options.figure:
        from penalty_figures import draw_speed

        draw_speed(options.figure, measured)


if __name__ == "__main__":
    main()
