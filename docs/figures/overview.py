"""The picture at the top of the README: the pipeline, and why a penalty may look at meaning.

    python docs/figures/overview.py assets/overview.png

The numbers in it are computed here, from the distributions and the embedding below.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from dschat.evaluation.drawing import GREY, INK, LINE, drawing, save_picture
from dschat.regularization import KLDivergence
from dschat.runtime.script import run_script
from torch import Tensor

TOKENS = ("cat", "kitten", "dog", "truck", "tractor")
EMBEDDING = torch.tensor(
    [[0.0, 0.0], [0.9, 0.5], [1.2, -0.6], [3.6, -0.5], [4.2, 0.4]], dtype=torch.float64
)
REFERENCE = torch.tensor([0.80, 0.05, 0.05, 0.05, 0.05], dtype=torch.float64)
POLICIES = {
    "policy A": torch.tensor([0.40, 0.45, 0.05, 0.05, 0.05], dtype=torch.float64),
    "policy B": torch.tensor([0.40, 0.05, 0.05, 0.05, 0.45], dtype=torch.float64),
}

PROMPT = "next token after “On the sofa sleeps a …”"
COLOURS = {"reference": GREY, "policy A": "#2a9d8f", "policy B": "#d1603d"}
PALE, FROZEN, ACCENT, PANEL = "#dbeafe", "#e5e7eb", "#fde9c8", "#f8fafc"
REGULARISERS = ("KL", "f-divergence", "Wasserstein", "several references")


def transport_distance(policy: Tensor, reference: Tensor, embedding: Tensor) -> float:
    """Least cost of moving ``policy`` [V] to ``reference`` [V] over L2 distances of ``embedding``.

    Closed form for distributions of which the policy is smaller at one token only: with costs that
    obey the triangle inequality the common mass stays, and all the rest has one place to go.

    Raises:
        ValueError: if the policy is smaller than the reference at any other number of tokens.
    """
    gain = policy - reference
    losers = (gain < -1e-12).nonzero().flatten().tolist()
    if len(losers) != 1:
        raise ValueError(
            f"given distributions that differ downwards at {len(losers)} tokens, expected one: "
            "solve a linear programme instead"
        )
    distances = (embedding - embedding[losers[0]]).norm(dim=1)
    return float((gain.clamp(min=0) * distances).sum())


def distances() -> dict[str, dict[str, float]]:
    """KL (nats) and transport distance of each policy from the reference, by policy and name."""
    kl = KLDivergence("exact")
    found = {}
    for name, policy in POLICIES.items():
        penalty = kl(policy.log()[None], REFERENCE.log()[None], torch.zeros(1, dtype=torch.int64))
        found[name] = {
            "KL": float(penalty.divergence),
            "transport": transport_distance(policy, REFERENCE, EMBEDDING),
        }
    return found


def box(
    axis: Any, x: float, y: float, w: float, h: float, text: str, face: str, **font: Any
) -> None:
    """A rounded box with centred text; (x, y) is its lower left corner."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=1.4"
    axis.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, fc=face, ec=LINE, lw=1))
    font = {"fontsize": 9.5, "color": INK, **font}
    axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", linespacing=1.25, **font)


def arrow(axis: Any, *points: tuple[float, float]) -> None:
    """A line through the points with a head at the last."""
    *_, before, last = points
    for start, end in pairwise(points[:-1]):
        axis.plot(*zip(start, end, strict=True), color=LINE, lw=1.4, solid_capstyle="round")
    style = {"arrowstyle": "-|>", "color": LINE, "lw": 1.4, "shrinkA": 0, "shrinkB": 1}
    axis.annotate("", xy=last, xytext=before, arrowprops=style)


def draw_pipeline(axis: Any) -> None:
    """Left half: three steps; in the third, what holds the policy is one part of its own."""
    axis.set(xlim=(-0.2, 100), ylim=(0, 77))
    axis.axis("off")
    axis.text(0, 73, "Three steps, one part to swap", fontsize=12.5, weight="bold", color=INK)
    box(axis, 0, 44, 19, 15, "step 1\nSFT", PALE, weight="bold")
    box(axis, 0, 12, 19, 15, "step 2\nreward\nmodel", PALE, weight="bold")
    box(axis, 25, 1, 74.5, 69, "", PANEL)
    axis.text(27.5, 64.3, "step 3: online RL (PPO)", fontsize=9.5, weight="bold", color=INK)
    parts = [("policy", 48.0, PALE), ("reference", 34.5, FROZEN)]
    parts += [("reward model", 20.0, FROZEN), ("critic", 6.5, PALE)]
    for name, y, face in parts:
        box(axis, 30, y, 23, 9.5, name, face)
    for x, y in ((30, 52.75), (30, 39.25)):
        arrow(axis, (19, 51.5), (22, 51.5), (22, y), (x, y))
    for x, y in ((30, 24.75), (30, 11.25)):
        arrow(axis, (19, 19.5), (22, 19.5), (22, y), (x, y))
    axis.text(41.5, 2.4, "grey: frozen", fontsize=8, color=LINE, ha="center")
    box(axis, 61, 31, 35, 28, "", ACCENT)
    axis.text(78.5, 55.2, "regulariser", fontsize=9.5, weight="bold", color=INK, ha="center")
    for i, name in enumerate(REGULARISERS):
        box(axis, 63.5, 48.3 - 5.2 * i, 30, 4.5, name, "white", fontsize=8.5)
    box(axis, 61, 6.5, 35, 13, "advantages,\nclipped updates", PALE)
    arrow(axis, (53, 52.75), (61, 52.75))
    arrow(axis, (53, 39.25), (61, 39.25))
    arrow(axis, (78.5, 31), (78.5, 19.5))
    axis.text(80, 25.2, "− β · penalty\nper token", fontsize=8, color=INK, va="center")
    arrow(axis, (53, 24.75), (66, 24.75), (66, 19.5))
    arrow(axis, (53, 11.25), (61, 11.25))
    arrow(axis, (96, 13), (97.8, 13), (97.8, 62), (57, 62), (57, 55.5), (53, 55.5))


def draw_distributions(axes: list[Any]) -> None:
    """Right half, top: the next-token distributions of reference and policies."""
    for axis, (name, p) in zip(axes, {"reference": REFERENCE, **POLICIES}.items(), strict=True):
        axis.barh(range(len(TOKENS)), p.tolist(), color=COLOURS[name], height=0.72)
        axis.set(ylim=(len(TOKENS) - 0.4, -0.6), xlim=(0, 1.05), xticks=[])
        axis.set_yticks(range(len(TOKENS)), TOKENS if name == "reference" else [], fontsize=9)
        for i, value in enumerate(p.tolist()):
            axis.text(value + 0.03, i, f"{value:.2f}", va="center", fontsize=8, color=INK)
        axis.set_title(name, fontsize=9.5, color=COLOURS[name], weight="bold", pad=3)


def draw_embedding(axis: Any) -> None:
    """Right half, bottom left: where the tokens lie, and where each policy moves its mass."""
    axis.scatter(*EMBEDDING.T.tolist(), s=26, color=INK, zorder=3)
    places = {
        "cat": (-9, -14),
        "kitten": (7, -3),
        "dog": (7, -4),
        "truck": (7, -4),
        "tractor": (-16, -14),
    }
    for token, point in zip(TOKENS, EMBEDDING.tolist(), strict=True):
        offset = places[token]
        axis.annotate(token, point, offset, textcoords="offset points", fontsize=9, ha="left")
    for name, policy in POLICIES.items():
        target = EMBEDDING[int((policy - REFERENCE).argmax())].tolist()
        bend = {"policy A": 0.0, "policy B": -0.4}[name]
        style = {"arrowstyle": "-|>", "color": COLOURS[name], "lw": 2, "shrinkA": 4, "shrinkB": 4}
        style["connectionstyle"] = f"arc3,rad={bend}"
        axis.annotate("", xy=target, xytext=EMBEDDING[0].tolist(), arrowprops=style)
    axis.set(xlim=(-0.6, 4.9), ylim=(-1.1, 1.75), xticks=[], yticks=[])
    axis.set_title("token embedding", fontsize=9.5, color=INK, pad=3)


def draw_numbers(axis: Any) -> None:
    """Right half, bottom right: the computed distances."""
    found = distances()
    for i, (name, values) in enumerate(found.items()):
        places = [j + 0.38 * (i - 0.5) for j in range(len(values))]
        axis.bar(places, list(values.values()), width=0.34, color=COLOURS[name])
        for x, value in zip(places, values.values(), strict=True):
            axis.text(x, value + 0.04, f"{value:.2f}", ha="center", fontsize=8.5, color=INK)
    axis.set(ylim=(0, 1.25 * max(v for row in found.values() for v in row.values())), yticks=[])
    axis.set_xticks(range(2), ["KL", "transport"], fontsize=9.5)
    axis.set_title("distance from the reference", fontsize=9.5, color=INK, pad=3)


def draw(path: Path) -> None:
    """Write the picture to ``path``."""
    with drawing() as plt:
        figure = plt.figure(figsize=(11.2, 4.3), facecolor="white")
        draw_pipeline(figure.add_axes((0.012, 0.02, 0.475, 0.96)))
        x = 0.575
        figure.text(
            0.522, 0.928, "Same KL, different meaning", fontsize=12.5, weight="bold", color=INK
        )
        figure.text(0.522, 0.87, PROMPT, fontsize=9, color=LINE)
        tops = [figure.add_axes((x + 0.14 * i, 0.475, 0.125, 0.325)) for i in range(3)]
        draw_distributions(tops)
        map_axis = figure.add_axes((0.522, 0.085, 0.228, 0.29))
        draw_embedding(map_axis)
        number_axis = figure.add_axes((0.785, 0.085, 0.195, 0.29))
        draw_numbers(number_axis)
        for axis in (*tops, number_axis):
            axis.spines[["top", "right", "left" if axis is number_axis else "bottom"]].set_visible(
                False
            )
            axis.tick_params(length=0)
        save_picture(figure, path)


def main() -> None:
    """Command line: where to write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "path", type=Path, help="PNG file to write, for example assets/overview.png"
    )
    path = parser.parse_args().path
    draw(path)
    for name, values in distances().items():
        print(name, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    print(f"Picture: {path.resolve()}")


if __name__ == "__main__":
    run_script(main)
