"""How the published truncated transport penalty behaves, in figures.

    python benchmarks/published_wasserstein.py

Random problems with a fixed seed, solved by the project's own `TruncatedWasserstein`:
1. the spread of the potential f over the tokens as iterations go on, with truncated costs, as a
   ratio to that of the exact potential (all costs finite, log-domain iteration to convergence);
2. f against its closed form where the kernel is the identity;
3. the jump at the reference: the mean penalty of a policy almost equal to its reference;
4. the two policies of the README's picture, at a small and at a fitting epsilon.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from dschat.regularization import TruncatedWasserstein
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "figures"))
from overview import EMBEDDING, POLICIES, REFERENCE

VOCABULARY, DIMENSION, PROBLEMS = 200, 16, 8
ITERATIONS = (1, 10, 100, 1000)


def potential(penalty: TruncatedWasserstein, policy: Tensor, reference: Tensor) -> Tensor:
    """f of every token, [V], from logits [V]: one row per token, each sampled once."""
    tokens = torch.arange(len(policy))
    rows = len(policy)
    return penalty(policy.expand(rows, -1), reference.expand(rows, -1), tokens, tokens).token


def exact_potential(points: Tensor, policy: Tensor, reference: Tensor, epsilon: float) -> Tensor:
    """f [V] of the entropic problem with all costs, float64, marginals met to 1e-9."""
    log_k = -torch.cdist(points.double(), points.double()) / epsilon
    log_p, log_q = policy.double().log_softmax(0), reference.double().log_softmax(0)
    log_u, log_v = torch.zeros_like(log_p), torch.zeros_like(log_q)
    for _ in range(100_000):
        log_u = log_p - torch.logsumexp(log_k + log_v, 1)
        log_v = log_q - torch.logsumexp(log_k + log_u[:, None], 0)
        rows = (log_u + torch.logsumexp(log_k + log_v, 1)).exp()
        if float((rows - log_p.exp()).abs().sum()) < 1e-9:
            return epsilon * log_u
    raise RuntimeError("the exact problem did not converge in 100,000 iterations")


def spread(f: Tensor) -> float:
    """Largest minus smallest."""
    return float(f.max() - f.min())


def problems() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Embeddings [V, D], policy logits [V] and reference logits [V] of each problem."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        (draw(VOCABULARY, DIMENSION), draw(VOCABULARY), draw(VOCABULARY)) for _ in range(PROBLEMS)
    ]


def growth() -> None:
    """1. Spread of f, mean over problems; epsilon a third of the median nearest cost."""
    print(f"1. spread of f: {PROBLEMS} problems, {VOCABULARY} tokens, epsilon = nearest cost / 3")
    print(
        f"   {'costs kept':>12}  {'iterations':>10}  {'spread':>7}  {'/ exact':>7}  marginal error"
    )
    found: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for points, policy, reference in problems():
        nearest = TruncatedWasserstein(points).diagnose()["median_nearest_cost"]
        exact = spread(exact_potential(points, policy, reference, nearest / 3))
        for kept in (8, 32, VOCABULARY - 1):
            for n in ITERATIONS:
                penalty = TruncatedWasserstein(
                    points, cost_dim=kept, top_k=VOCABULARY, epsilon=nearest / 3, max_iter=n
                )
                f = spread(potential(penalty, policy, reference))
                tokens = torch.arange(VOCABULARY)
                rows = penalty(policy[None], reference[None], tokens[:1], tokens)
                found.setdefault((kept, n), []).append((f, exact, rows.metrics["marginal_error"]))
    for (kept, n), values in found.items():
        f, exact, error = torch.tensor(values).mean(0).tolist()
        print(f"   {kept:>12}  {n:>10}  {f:>7.2f}  {f / exact:>7.2f}  {error:.1e}")
    print(f"   exact potential: spread {exact:.2f}")


def identity_kernel() -> None:
    """2. epsilon 0.01 and distances of some 3: f = eps [log pi + (n - 1) log(pi / rho)]."""
    print("\n2. identity kernel, epsilon 0.01: |f - closed form|")
    for n in (1, 2, 10):
        errors, agreeing = [], []
        for points, policy, reference in problems():
            penalty = TruncatedWasserstein(
                points, cost_dim=32, top_k=VOCABULARY, epsilon=0.01, max_iter=n
            )
            log_pi, log_rho = policy.log_softmax(0), reference.log_softmax(0)
            expected = 0.01 * (log_pi + (n - 1) * (log_pi - log_rho))
            f = potential(penalty, policy, reference)
            error = (f - expected).abs() / f.abs().max()
            errors.append(float(error.max()))
            agreeing.append(float((error < 1e-4).float().mean()))
        share = sum(agreeing) / len(agreeing)
        print(
            f"   {n:>2} iterations: at most {max(errors):.1e} of the largest |f|; "
            f"below 1e-4 of it at {share:.1%} of the tokens"
        )
    diagnosis = penalty.diagnose()
    print(f"   nearest cost / epsilon: {diagnosis['nearest_cost_over_epsilon']:.0f}")
    print(f"   kernel entries above 1e-16: {diagnosis['kernel_share_above_1e-16']:.0%}")


def jump_at_the_reference() -> None:
    """3. Mean penalty where policy = reference + noise; 0 by rule where they are identical."""
    print("\n3. near the reference, epsilon 0.01, 10 iterations: mean of f over the policy")
    points, policy, _ = problems()[0]
    penalty = TruncatedWasserstein(points, cost_dim=32, top_k=VOCABULARY, epsilon=0.01)
    log_pi = policy.log_softmax(0)
    entropy = -float((log_pi.exp() * log_pi).sum())
    noise = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2))
    for scale in (0.0, 1e-5, 1e-3, 1e-1):
        reference = policy + scale * noise
        kl = float((log_pi.exp() * (log_pi - reference.log_softmax(0))).sum())
        mean = float((log_pi.exp() * potential(penalty, policy, reference)).sum())
        print(f"   noise {scale:<6g} KL {max(kl, 0):.1e}  mean of f {mean:+.4f}")
    print(f"   - epsilon x entropy of the policy: {-0.01 * entropy:+.4f}")


def readme_policies() -> None:
    """4. A moves its mass to a near token, B to a far one."""
    print("\n4. the README's policies, all costs kept, 10 iterations: mean of f over the policy")
    for epsilon in (0.01, 0.5):
        penalty = TruncatedWasserstein(EMBEDDING, cost_dim=4, top_k=5, epsilon=epsilon)
        means = []
        for policy in POLICIES.values():
            f = potential(penalty, policy.log(), REFERENCE.log())
            means.append(float((policy * f).sum()))
        a, b = means
        print(f"   epsilon {epsilon:<5g} policy A {a:+.4f}  policy B {b:+.4f}  B - A {b - a:+.4f}")


if __name__ == "__main__":
    growth()
    identity_kernel()
    jump_at_the_reference()
    readme_policies()
