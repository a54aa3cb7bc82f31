"""The published truncated transport as it was published: the yardstick of the benchmark.

Na et al., ICLR 2026, arXiv 2602.01685. Written from the paper's formulas, not optimised: both
softmaxes over the vocabulary are kept, the kernel is a sparse COO matrix over the union of the
supports of all positions, with every stored neighbour an entry (also those whose value is zero in
float32), and all positions are iterated together, one row each, as the logits are. With
``columns=True`` a position is a column, which the sparse product likes better. The table of nearest
neighbours is given: the published code builds it token by token in Python, not timed here.
"""

from __future__ import annotations

import torch
from dschat.regularization.ground.table_cache import NearestTokens
from torch import Tensor


def union_support(policy: Tensor, reference: Tensor, actions: Tensor, top_k: int) -> Tensor:
    """Sorted union [S] of the likeliest tokens of all rows and of the sampled tokens."""
    likely = [p.topk(min(top_k, p.shape[1]), dim=1).indices.flatten() for p in (policy, reference)]
    return torch.cat([*likely, actions]).unique()


def coo_kernel(table: NearestTokens, support: Tensor, epsilon: float) -> Tensor:
    """K [S + 1, S + 1]: exp(-cost / epsilon) of neighbours, 1 on the diagonal, the tail last."""
    size = len(support)
    place = torch.full((len(table.indices),), -1)
    place[support] = torch.arange(size)
    columns = place[table.indices[support].long()]
    values = torch.exp(-table.costs[support] / epsilon)
    rows, neighbour = (columns >= 0).nonzero(as_tuple=True)
    columns, values = columns[rows, neighbour], values[rows, neighbour]
    keys = torch.cat([rows * size + columns, columns * size + rows])
    unique, where = keys.unique(return_inverse=True)
    larger = torch.zeros(len(unique)).scatter_reduce_(0, where, values.repeat(2), "amax")
    diagonal = torch.arange(size + 1)
    indices = torch.stack(
        [torch.cat([unique // size, diagonal]), torch.cat([unique % size, diagonal])]
    )
    entries = torch.cat([larger, torch.ones(size + 1)])
    return torch.sparse_coo_tensor(indices, entries, (size + 1, size + 1)).coalesce()


def binned(probabilities: Tensor, support: Tensor) -> Tensor:
    """[N, S + 1]: the support's probabilities and, last, the remaining mass."""
    inside = probabilities[:, support]
    tail = (1 - inside.sum(1, keepdim=True)).clamp(min=0)
    return torch.cat([inside, tail], dim=1)


def iterate(kernel: Tensor, p: Tensor, q: Tensor, max_iter: int, tol: float) -> Tensor:
    """u after at most ``max_iter`` iterations from u = v = 1; all [N, S + 1], of any strides."""
    transposed = kernel.t()
    u, v = torch.ones_like(p), torch.ones_like(q)
    result = torch.empty_like(p)
    active = torch.arange(len(p))
    for _ in range(max_iter):
        previous = u
        u = p / (torch.sparse.mm(kernel, v.T).T + 1e-16)
        v = q / (torch.sparse.mm(transposed, u.T).T + 1e-16)
        left = (u - previous).abs().amax(1) > tol
        result[active] = u
        if not bool(left.all()):
            active, u, v, p, q = active[left], u[left], v[left], p[left], q[left]
        if not len(active):
            break
    return result


def penalty(
    table: NearestTokens,
    policy_logits: Tensor,
    reference_logits: Tensor,
    actions: Tensor,
    top_k: int,
    epsilon: float,
    max_iter: int = 10,
    tol: float = 1e-6,
    support: Tensor | None = None,
    kernel: Tensor | None = None,
    columns: bool = False,
) -> Tensor:
    """f [N] of the sampled tokens. Give ``support`` and ``kernel`` to solve rows of a batch."""
    policy, reference = policy_logits.softmax(1), reference_logits.softmax(1)
    if support is None:
        support = union_support(policy, reference, actions, top_k)
    if kernel is None:
        kernel = coo_kernel(table, support, epsilon)
    p, q = binned(policy, support), binned(reference, support)
    if columns:
        p, q = p.T.contiguous().T, q.T.contiguous().T
    f = epsilon * torch.log(iterate(kernel, p, q, max_iter, tol) + 1e-16)
    return f.gather(1, torch.searchsorted(support, actions).unsqueeze(1)).squeeze(1)
