"""Which penalties see what a token means: two policies that move the same mass, near and far.

    python docs/figures/semantics.py assets/semantics.png

The reference is sure of "cat". Policy A gives half of that mass to "kitten", policy B to "tractor".
All numbers in the picture are computed here with the project's regularisers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from dschat.evaluation.drawing import INK, drawing, save_picture
from dschat.regularization import (
    FDivergence,
    KLDivergence,
    PolicyRegularizer,
    SinkhornDivergence,
    TruncatedWasserstein,
)
from dschat.runtime.script import run_script
from overview import COLOURS, EMBEDDING, POLICIES, REFERENCE, TOKENS

PUBLISHED = "published\nWasserstein\n(ε 0.01)"
SINKHORN = "Sinkhorn\ndivergence\n(ε 0.05)"
EPSILONS = tuple(10 ** (k / 8) for k in range(-16, 9))
"""0.01 to 10."""


def published(epsilon: float = 0.01) -> TruncatedWasserstein:
    """The published penalty with all tokens in the support and all costs kept."""
    size = len(TOKENS)
    return TruncatedWasserstein(EMBEDDING, cost_dim=size - 1, top_k=size, epsilon=epsilon)


def sinkhorn(epsilon: float = 0.05) -> SinkhornDivergence:
    """The Sinkhorn divergence without truncation."""
    # Moved off the origin, which changes no distance: a row of zeros counts as padding.
    return SinkhornDivergence(EMBEDDING + 1, len(TOKENS), epsilon, max_iter=5000, tol=1e-6)


def mean_penalty(regularizer: PolicyRegularizer, policy: str) -> float:
    """Mean of the token penalty over the policy: what its reward loses at such a position."""
    probabilities = POLICIES[policy]
    rows = len(probabilities)
    token = regularizer(
        probabilities.log().expand(rows, -1),
        REFERENCE.log().expand(rows, -1),
        torch.arange(rows),
    ).token
    return float((probabilities * token).sum())


def penalties() -> dict[str, dict[str, float]]:
    """Mean penalty of both policies, by regulariser and policy."""
    named: dict[str, PolicyRegularizer] = {
        "KL": KLDivergence("exact"),
        "JS": FDivergence("js", form="gradient"),
        PUBLISHED: published(),
        SINKHORN: sinkhorn(),
    }
    return {
        name: {policy: mean_penalty(each, policy) for policy in POLICIES}
        for name, each in named.items()
    }


def draw(path: Path) -> None:
    """Write the picture to ``path``."""
    with drawing() as plt:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(10.5, 3.9), width_ratios=(1.15, 1), layout="constrained"
        )
        _draw_bars(left)
        _draw_epsilons(right)
        save_picture(figure, path)


def _draw_bars(axis: Any) -> None:
    """Mean penalties, each regulariser's as a share of its larger one."""
    found = penalties()
    for i, policy in enumerate(POLICIES):
        near_or_far = ("half of it to “kitten”", "half of it to “tractor”")[i]
        values = [row[policy] for row in found.values()]
        shares = [v / max(row.values()) for v, row in zip(values, found.values(), strict=True)]
        places = [j + 0.4 * (i - 0.5) for j in range(len(values))]
        label = f"{policy}: {near_or_far}"
        bars = axis.bar(places, shares, 0.36, color=COLOURS[policy], label=label)
        axis.bar_label(bars, [f"{v:.3f}" for v in values], fontsize=8, color=INK)
    axis.set_xticks(range(len(found)), list(found), fontsize=9)
    axis.set(ylim=(0, 1.45), yticks=[])
    axis.legend(frameon=False, fontsize=8.5, loc="upper left")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_title("mean penalty; the reference is sure of “cat”", fontsize=10, color=INK)


def _draw_epsilons(axis: Any) -> None:
    """Mean penalty of B minus that of A, over epsilon."""
    for label, make, colour in (
        ("published, ε in the unit of the embedding", published, "#64748b"),
        ("Sinkhorn divergence, ε in mean distances", sinkhorn, "#7c3aed"),
    ):
        gaps = []
        for epsilon in EPSILONS:
            regularizer: PolicyRegularizer = make(epsilon)
            near, far = (mean_penalty(regularizer, policy) for policy in POLICIES)
            gaps.append(far - near)
        axis.plot(EPSILONS, gaps, color=colour, label=label)
    axis.axhline(0, color="#cbd5e1", lw=1)
    axis.axvline(0.01, color="#64748b", lw=0.8, ls=":")
    axis.set_xscale("log")
    axis.set_xlabel("ε", fontsize=9.5)
    axis.legend(frameon=False, fontsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("how much more B costs than A", fontsize=10, color=INK)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python docs/figures/semantics.py``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, help="picture to write, .png or .svg")
    path = parser.parse_args(arguments).path
    draw(path)
    for name, row in penalties().items():
        values = ", ".join(f"{policy} {value:.4f}" for policy, value in row.items())
        print(f"{' '.join(name.split())}: {values}")
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
