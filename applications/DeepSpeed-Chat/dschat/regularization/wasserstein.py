"""Wasserstein policy regularisation as published: truncated entropic transport between tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dschat.regularization.base import (
    Penalty,
    PolicyRegularizer,
    checked_penalty,
    mean,
    single_reference,
)
from dschat.regularization.diagnosis import diagnose_kernel, diagonal_warning, length_report
from dschat.regularization.ground.metric import GroundMetric, at_most_float32
from dschat.regularization.ground.nearest_table import NearestTable, Progress
from dschat.regularization.transport.kernel_operators import KernelOperator, kernel_operator
from dschat.regularization.transport.scaling import STABILISER, scale, summarise_plan
from dschat.regularization.transport.support import (
    bin_of,
    binned_distribution,
    check_support,
    union_of_tokens,
)
from dschat.regularization.transport.token_kernel import (
    SymmetricKernel,
    VocabularyKernel,
    symmetric_kernel,
    vocabulary_kernel,
)

NUMBERS_PER_BLOCK = {"cpu": 2**17, "cuda": 2**26}
"""Logits per block of positions: memory (and, on a CPU, its cache), not the result."""


class TruncatedWasserstein(PolicyRegularizer):
    """Potential of a truncated entropic transport problem between policy and reference.

    Na et al., ICLR 2026, arXiv 2602.01685: W = min <P, C> - epsilon H(P) over plans P between the
    two distributions, with the distance of token embeddings as cost C. Costs are kept for the
    ``cost_dim`` nearest tokens only, distributions on a support of the most probable tokens, the
    rest of the mass in one tail bin that no token can reach. The token penalty is the potential
    f = epsilon log u of the sampled token after at most ``max_iter`` iterations; a token outside
    the support gets that of the tail. It is what was published, not a first variation with mean D:
    the metric ``expected_potential`` (mean of f over the policy) shows the difference, and
    ``distance_effect`` how far f is from what it would be without any distances (in units of
    epsilon). The divergence is the plan's mean cost over the entries of finite cost.

    The truncated problem is infeasible in general, so that f grows with ``max_iter``; and where
    nearest tokens lie far beyond ``epsilon`` the kernel is the identity in float32 and the penalty
    is epsilon [log pi + (n - 1) log(pi / rho)], until the stabiliser 1e-16 takes
    over. See ``diagnose`` and ``warning``.

    A batch may be fed in chunks: call ``collect_support`` on each, gather the supports of all
    ranks, then call the regulariser on each chunk with the result. If all rows of one call have
    identical policy and reference logits, the penalty is 0; published for the whole batch, this
    rule acts here on the rows given, since a batch is identical in all its chunks or hardly ever.

    Args:
        token_embeddings: [V', D], input embeddings of the frozen reference model, V' >= V.
        cost_dim: nearest tokens per token with a finite cost.
        top_k: tokens of either distribution that enter the support per position.
        epsilon: entropic regularisation, in the unit of the costs.
        max_iter: iterations at most.
        tol: largest absolute change of u at which a position stops.
        cost_type, cost_components, cost_power, cost_saturation: the costs, see ``GroundMetric``.
        normalize: divide u by its maximum and centre f over the support.
        pad_token_id: token excluded from the support.
        eos_token_id: token or tokens always in the support (also the padding token).
        block_size: rows per block while the table is built; bounds memory only.
        cache_dir: folder in which the nearest-token table is kept; None for none.
        writes: add to `cache_dir`, not only read; one process of each node does.
        progress: shows how far the table's new rows are.

    Raises:
        ValueError: on settings outside their range or unusable embeddings.
    """

    name = "wasserstein"
    uses_support = True

    def __init__(
        self,
        token_embeddings: Tensor,
        cost_dim: int = 512,
        top_k: int = 128,
        epsilon: float = 0.01,
        max_iter: int = 10,
        tol: float = 1e-6,
        cost_type: str = "L2",
        normalize: bool = False,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        block_size: int = 1024,
        cache_dir: str | Path | None = None,
        writes: bool = True,
        progress: Progress | None = None,
        cost_components: int = 10,
        cost_power: float | None = None,
        cost_saturation: float | None = None,
    ) -> None:
        if not (cost_dim >= 1 and top_k >= 1 and max_iter >= 1 and epsilon > 0 and tol >= 0):
            raise ValueError(
                f"given cost_dim = {cost_dim}, top_k = {top_k}, max_iter = {max_iter}, epsilon = "
                f"{epsilon}, tol = {tol}, expected the first three at least 1, epsilon above 0 "
                "and tol at least 0"
            )
        self.top_k, self.epsilon = top_k, epsilon
        self.max_iter, self.tol, self.normalize = max_iter, tol, normalize
        self.pad_token_id, self.eos_token_id = pad_token_id, eos_token_id
        metric = GroundMetric(
            at_most_float32(token_embeddings),
            cost_type,
            cost_components,
            cost_power,
            cost_saturation,
        )
        self.table = NearestTable(
            token_embeddings, cost_dim, metric, block_size, cache_dir, writes, progress
        )
        self._vocabulary_kernel: VocabularyKernel | None = None
        self._last_kernel: _KernelOnSupport | None = None
        self._diagnosis = diagnose_kernel(metric, self.table, epsilon)

    @torch.no_grad()
    def collect_support(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        token_ids: Tensor,
        support: Tensor | None = None,
    ) -> Tensor:
        """Tokens of these rows' support, joined with an earlier result.

        Args:
            policy_logits, reference_logits: [N, V], the response positions of a chunk; several
                references are joined.
            token_ids: any shape, int64, further tokens: those that follow each position of the
                batch from the first response token on, after the end of a response too.
            support: result for earlier chunks.

        Returns:
            [S] int64, sorted, without repetition.
        """
        references = (
            [reference_logits] if isinstance(reference_logits, Tensor) else reference_logits
        )
        return union_of_tokens(
            logits=[policy_logits, *references],
            token_ids=[token_ids] if support is None else [token_ids, support],
            top_k=self.top_k,
            excluded=self.pad_token_id,
            included=self.eos_token_id,
        )

    @torch.no_grad()
    def __call__(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        actions: Tensor,
        support: Tensor | None = None,
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64.

        Args:
            support: [S] from ``collect_support`` over the whole batch; None takes the support of
                these rows and actions.
        """
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        self._check_vocabulary(policy_logits.shape[1])
        if support is None:
            support = self.collect_support(policy_logits, reference_logits, actions)
        support = support.to(policy_logits.device)
        check_support(support, policy_logits.shape[1])
        kernel = self._kernel(support, torch.promote_types(policy_logits.dtype, torch.float32))
        is_identical = torch.equal(policy_logits, reference_logits)
        rows = _rows_per_block(policy_logits, kernel.operator)
        blocks = zip(
            policy_logits.split(rows),
            reference_logits.split(rows),
            bin_of(actions, support).split(rows),
            strict=True,
        )
        solution = _Solution.joined([self._solve(kernel, support, *block) for block in blocks])
        if is_identical:
            solution = solution.without_penalty()
        metrics = {
            "expected_potential": mean(solution.expected_potential),
            "distance_effect": mean(solution.distance_effect),
            "marginal_error": mean(solution.marginal_error),
            "iterations": mean(solution.iterations),
            "converged": mean(solution.converged),
            "tail_mass": mean(solution.tail_mass),
            "kernel_share_above_1e-16": kernel.share_above,
            "nearest_cost_over_epsilon": self._diagnosis["nearest_cost_over_epsilon"],
        }
        return checked_penalty(solution.token, solution.divergence, metrics)

    def _check_vocabulary(self, vocabulary: int) -> None:
        rows = self.table.vocabulary
        if vocabulary > rows:
            raise ValueError(
                f"given logits over {vocabulary} tokens and {rows} token embeddings, expected an "
                "embedding for each: pass the reference model's own embeddings, and cut padded "
                "logits to their number"
            )

    def _kernel(self, support: Tensor, dtype: torch.dtype) -> _KernelOnSupport:
        last = self._last_kernel
        # The chunks of a batch share their support: build its kernel once.
        if last is None or last.dtype != dtype or not torch.equal(last.support, support):
            entries = self._entries(support)
            operator = kernel_operator(entries, dtype)
            last = _KernelOnSupport(support, dtype, operator, entries.share_above)
            self._last_kernel = last
        return last

    def _entries(self, support: Tensor) -> SymmetricKernel:
        """The kernel's entries on the support and the tail."""
        device = support.device
        if not self.table.is_whole:
            table = self.table.rows(support).to(device)
            among = vocabulary_kernel(table, self.epsilon, support)
            every = torch.arange(len(support), device=device)
            return symmetric_kernel(among, every, extra_bins=1)
        # Made once, at the first batch: its device is not known before.
        kernel = self._vocabulary_kernel
        if kernel is None or kernel.costs.device != device:
            kernel = vocabulary_kernel(self.table.whole().to(device), self.epsilon)
            self._vocabulary_kernel = kernel
        return symmetric_kernel(kernel, support, extra_bins=1)

    def _solve(
        self,
        kernel: _KernelOnSupport,
        support: Tensor,
        policy_logits: Tensor,
        reference_logits: Tensor,
        bins: Tensor,
    ) -> _Solution:
        """Solve for a block of positions: logits [B, V] twice and bins [B] of the tokens."""
        policy = binned_distribution(policy_logits, support).T
        reference = binned_distribution(reference_logits, support).T
        tail_mass = (policy[-1] + reference[-1]) / 2
        if kernel.operator is not None:
            # For its products a bin's positions must lie side by side.
            policy, reference = policy.contiguous(), reference.contiguous()
        scaling = scale(kernel.operator, policy, reference, self.max_iter, self.tol)
        plan = summarise_plan(kernel.operator, scaling, policy, reference)
        potential = self._potential(scaling.u)
        place = bins.unsqueeze(0)
        alone = _alone(policy.gather(0, place), reference.gather(0, place), scaling.iterations)
        difference = torch.log((scaling.u.gather(0, place) + STABILISER) / (alone + STABILISER))
        return _Solution(
            token=potential.gather(0, place).squeeze(0),
            divergence=plan.cost,
            expected_potential=(policy * potential).sum(0),
            marginal_error=plan.marginal_error,
            iterations=scaling.iterations.to(policy.dtype),
            converged=scaling.converged.to(policy.dtype),
            tail_mass=tail_mass,
            distance_effect=difference.abs_().squeeze(0),
        )

    def _potential(self, u: Tensor) -> Tensor:
        """f [S + 1, N] from the scaling u, as published."""
        if not self.normalize:
            return (u + STABILISER).log_().mul_(self.epsilon)
        relative = (u / u.amax(0)).clamp(min=torch.finfo(torch.float32).tiny)
        potential = self.epsilon * torch.log(relative)
        return potential - potential.mean(0)

    def diagnose(self) -> dict[str, float]:
        """Figures of the nearest-token table at this epsilon, see ``diagnose_kernel``."""
        return dict(self._diagnosis)

    def warning(self) -> str | None:
        """What to tell the user if the kernel is numerically diagonal; None if it is not."""
        return diagonal_warning(self._diagnosis, self.epsilon, self.max_iter)

    def first_report(self, metrics: Mapping[str, float], coefficient: float) -> str:
        """What to tell the user after the first iteration, see ``length_report``."""
        return length_report(metrics, coefficient)


class _KernelOnSupport(NamedTuple):
    support: Tensor
    dtype: torch.dtype
    operator: KernelOperator | None
    share_above: float


class _Solution(NamedTuple):
    """All [N]."""

    token: Tensor
    divergence: Tensor
    expected_potential: Tensor
    marginal_error: Tensor
    iterations: Tensor
    converged: Tensor
    tail_mass: Tensor
    distance_effect: Tensor

    def without_penalty(self) -> _Solution:
        """The published rule for identical logits; what the potential would be stays known."""
        zero = torch.zeros_like(self.token)
        return self._replace(token=zero, divergence=zero, marginal_error=zero)

    @classmethod
    def joined(cls, parts: list[_Solution]) -> _Solution:
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _alone(policy: Tensor, reference: Tensor, iterations: Tensor) -> Tensor:
    """u of bins that are tied to nothing but themselves, after each position's `iterations`.

    Args:
        policy, reference: [1, N], masses of a bin. iterations: [N].
    """
    u = v = torch.ones_like(policy)
    for iteration in range(int(iterations.max()) if iterations.numel() else 0):
        running = iteration < iterations
        u = torch.where(running, policy / (v + STABILISER), u)
        v = torch.where(running, reference / (u + STABILISER), v)
    return u


def _rows_per_block(logits: Tensor, operator: KernelOperator | None) -> int:
    numbers = NUMBERS_PER_BLOCK.get(logits.device.type, NUMBERS_PER_BLOCK["cpu"])
    rows = max(1, numbers // max(1, logits.shape[1]))
    if operator is None or logits.is_cuda:
        return rows
    return operator.columns
