"""How far the penalties are from transport over the whole vocabulary in float64.

    python benchmarks/penalty_accuracy.py

prints what cutting the distributions to the ``top_k`` likeliest tokens of either does to the token
penalty phi and the divergence D of `SinkhornDivergence`, for two shapes of logits, and how closely
the published penalty and phi follow the log-ratio as epsilon varies.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from dschat.regularization import SinkhornDivergence, TruncatedWasserstein
from exact import first_variation, scaled_costs
from inputs import embeddings, logits
from torch import Tensor

POSITIONS, DRAWS = 32, 8


def against_full(
    named: dict[str, Any], points: Tensor, epsilons: Sequence[float], kind: str, step: float
) -> None:
    """Print how regularisers' token penalties compare with the full first variation.

    Args:
        named: regularisers by name; a `SinkhornDivergence` is compared at its own epsilon only.
        points: [V, D], embeddings; costs V^2 numbers.
    """
    vocabulary = len(points)
    policy, reference, actions = logits(kind, POSITIONS, vocabulary, step)
    print(
        f"\nagainst the full Sinkhorn divergence in float64: {POSITIONS} positions, {vocabulary} "
        f"tokens\n  {'':52} correlation of phi  error of phi  error of D"
    )
    for epsilon in epsilons:
        full = first_variation(policy, reference, scaled_costs(points), epsilon)
        phi = full[0].gather(1, actions.unsqueeze(1)).squeeze(1)
        for name, regulariser in named.items():
            is_sinkhorn = isinstance(regulariser, SinkhornDivergence)
            if is_sinkhorn and regulariser.epsilon != epsilon:
                continue
            token = regulariser(policy, reference, actions).token
            correlation = float(torch.corrcoef(torch.stack([token.double(), phi]))[0, 1])
            errors = "{:14.2%}{:12.2%}".format(
                *relative_errors(regulariser, policy, reference, full)
            )
            label = f"{name} (full: eps {epsilon:g})"
            print(f"  {label:52} {correlation:18.3f}{errors if is_sinkhorn else ''}")


def relative_errors(
    regulariser: Any, policy: Tensor, reference: Tensor, full: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Errors of phi, mean of ``DRAWS`` tokens of the policy, and of D, over mean |phi| and D."""
    phi, divergence = full
    generator = torch.Generator().manual_seed(3)
    actions = policy.softmax(1).multinomial(DRAWS, replacement=True, generator=generator)
    results = [regulariser(policy, reference, column) for column in actions.T.contiguous()]
    token = torch.stack([result.token for result in results], dim=1)
    exact = phi.gather(1, actions)
    of_d = (results[0].divergence - divergence).abs().mean() / divergence.mean()
    return float((token - exact).abs().mean() / exact.abs().mean()), float(of_d)


def truncation(vocabulary: int, dimension: int, epsilon: float, step: float) -> None:
    """Print the errors over top_k."""
    points = embeddings(vocabulary, dimension)
    print(
        f"{POSITIONS} positions, {vocabulary} tokens, epsilon {epsilon:g} of the mean distance, "
        f"policy logits = reference logits + {step:g} x normal"
    )
    print("  logits  top_k  mass in the tail  error of phi  error of D")
    for kind in ("zipf", "flat"):
        policy, reference, actions = logits(kind, POSITIONS, vocabulary, step)
        full = first_variation(policy, reference, scaled_costs(points), epsilon)
        for top_k in [k for k in (4, 16, 64, 128, 256) if k < vocabulary] + [vocabulary]:
            regulariser = SinkhornDivergence(points, top_k, epsilon, 2000, 1e-5)
            tail = regulariser(policy, reference, actions).metrics["tail_mass"]
            of_phi, of_d = relative_errors(regulariser, policy, reference, full)
            print(f"  {kind:6} {top_k:6} {tail:17.1%} {of_phi:13.2%} {of_d:11.2%}")


def log_ratio(vocabulary: int, dimension: int, step: float) -> None:
    """Print how far the token penalties only repeat log(pi / rho), over epsilon."""
    points = embeddings(vocabulary, dimension)
    unit = SinkhornDivergence(points).distance.mean
    policy, reference, actions = logits("zipf", 4 * POSITIONS, vocabulary, step)
    difference = policy.log_softmax(1) - reference.log_softmax(1)
    ratio = difference.gather(1, actions.unsqueeze(1)).squeeze(1)
    print("\ncorrelation of the token penalty with the log-ratio, Zipf-like logits")
    print("  epsilon / mean distance  published  Sinkhorn divergence")
    for epsilon in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        both = (
            TruncatedWasserstein(points, epsilon=epsilon * unit),
            SinkhornDivergence(points, 128, epsilon),
        )
        tokens = [each(policy, reference, actions).token for each in both]
        found = [float(torch.corrcoef(torch.stack([token, ratio]))[0, 1]) for token in tokens]
        print(f"  {epsilon:23g} {found[0]:10.3f} {found[1]:20.3f}")


def main() -> None:
    """Parse the flags and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--step", type=float, default=0.3)
    options = parser.parse_args()
    truncation(options.vocabulary, options.dimension, options.epsilon, options.step)
    log_ratio(options.vocabulary, options.dimension, options.step)


if __name__ == "__main__":
    main()
