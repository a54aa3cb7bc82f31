"""The Sinkhorn divergence over the whole vocabulary in float64, by Sinkhorn's plain iteration."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_costs(embeddings: Tensor) -> Tensor:
    """[V, V] float64 distances over the mean distance of distinct tokens."""
    costs = torch.cdist(
        embeddings.double(), embeddings.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return costs / (costs.sum() / (len(costs) * (len(costs) - 1)))


def first_variation(
    policy: Tensor, reference: Tensor, costs: Tensor, epsilon: float, tol: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """phi [N, V] of every token, with mean D over the policy, and D [N], from logits [N, V]."""
    log_p, log_q = policy.double().log_softmax(1), reference.double().log_softmax(1)
    kernel = torch.exp(-costs / epsilon)
    f, g = _potentials(log_p, log_q, kernel, tol)
    own, _ = _potentials(log_p, log_p, kernel, tol)
    other, _ = _potentials(log_q, log_q, kernel, tol)
    variation = epsilon * (f - own)
    shift = epsilon * (log_q.exp() * (g - other)).sum(1, keepdim=True)
    phi = variation + shift
    return phi, (log_p.exp() * phi).sum(1)


def _potentials(log_p: Tensor, log_q: Tensor, kernel: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """Potentials over epsilon, in scaling form; a problem of one distribution is symmetrised."""
    p, q = log_p.exp(), log_q.exp()
    a, b = torch.ones_like(p), torch.ones_like(q)
    same = log_p is log_q
    for _ in range(200_000):
        new_a = 1 / ((q * b) @ kernel)
        error = (p * (a / new_a - 1).abs()).sum(1)
        if bool((error <= tol).all()):
            break
        a = (a * new_a).sqrt() if same else new_a
        b = a if same else 1 / ((p * a) @ kernel)
    else:
        raise RuntimeError(f"not solved to {tol:g} in 200,000 iterations: use a larger epsilon")
    return a.log(), b.log()
