"""The Sinkhorn divergence as policy regulariser: transport between tokens, well posed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from dschat.regularization.base import (
    Penalty,
    PolicyRegularizer,
    checked_penalty,
    mean,
    single_reference,
)
from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.token_distance import TokenDistance
from dschat.regularization.transport.sinkhorn_kernels import LARGEST_SCALED_COST
from dschat.regularization.transport.sinkhorn_solver import Solver, solve
from dschat.regularization.transport.truncation import Truncation, truncate

NUMBERS_PER_BLOCK = {"cpu": 2**21, "cuda": 2**26}
"""Largest tensor of a block of positions: memory (and, on a CPU, its cache), not the result."""
UNCONVERGED_SHARE = 0.01
UNSEEN_DRIFT = 0.05
"""Share of the policy's mass that may move within the tail before a warning says so."""
LEAST_EPSILON, EPSILONS_TO_NEAREST = 0.05, 3.0
FAR_EPSILONS = 6.0
"""Nearest tokens farther away than this many epsilon are as far as all others: see `warning`."""
SHARED_COSTS_UP_TO = 1024
"""On a CPU, vocabularies up to this share one block of costs. Measured with 143 of 288 tokens in a
position's bins: 3 times faster."""


def rows_per_block(logits: Tensor) -> int:
    """Positions whose logits [N, V] are cut to their top_k tokens together."""
    return max(1, _numbers_per_block(logits) // logits.shape[1])


def _numbers_per_block(tensor: Tensor) -> int:
    return NUMBERS_PER_BLOCK.get(tensor.device.type, NUMBERS_PER_BLOCK["cpu"])


def default_solver(costs: Tensor) -> Solver:
    """The Triton kernel for float32 on a CUDA GPU where Triton is installed, else plain torch."""
    if costs.is_cuda and costs.dtype == torch.float32 and find_spec("triton"):
        from dschat.regularization.transport import sinkhorn_triton

        return sinkhorn_triton.solve
    return solve


class SinkhornDivergence(PolicyRegularizer):
    """S(pi, rho) = OT(pi, rho) - OT(pi, pi) / 2 - OT(rho, rho) / 2 over token distances.

    OT is entropic transport, min <P, C> + epsilon KL(P || pi x rho) (Feydy et al., AISTATS 2019).
    S is 0 where the distributions are equal and positive elsewhere; moving mass to near tokens
    costs less than to far ones. The token penalty is its first variation with respect to pi,
    shifted so that its mean over the policy is S. Each position has its own bins: the most probable
    tokens of both distributions, and a tail with the remaining masses, so that the problem is
    always feasible; a sampled token that was cut off gets the penalty of the tail. Tokens with
    less than ``tol`` / (10 S) in both distributions, S the bins, are left to the tail as well:
    together they are a tenth of what the plan may miss its marginals by.

    Args:
        token_embeddings: [V', D], input embeddings of the frozen reference model, V' >= V.
        top_k: tokens of each distribution that get a bin of their own.
        epsilon: entropic regularisation, as a share of the mean distance of tokens; None for a
            third of the median distance of a token from its nearest other one, at least 0.05.
        max_iter: updates at most.
        tol: L1 marginal error of the plan at which a position stops.
        cost_type, cost_components, cost_power, cost_saturation: the costs, see ``GroundMetric``;
            they are divided by their mean.
        solver: what solves the transport problems of a block of positions; None for
            ``default_solver``.

    Raises:
        ValueError: on settings outside their range or unusable embeddings.
    """

    name = "sinkhorn_divergence"

    def __init__(
        self,
        token_embeddings: Tensor,
        top_k: int = 128,
        epsilon: float | None = None,
        max_iter: int = 200,
        tol: float = 1e-3,
        cost_type: str = "L2",
        solver: Solver | None = None,
        cost_components: int = 10,
        cost_power: float | None = None,
        cost_saturation: float | None = None,
    ) -> None:
        in_range = epsilon is None or epsilon > 0
        if not (top_k >= 1 and max_iter >= 1 and in_range and tol > 0):
            raise ValueError(
                f"given top_k = {top_k}, max_iter = {max_iter}, epsilon = {epsilon}, tol = {tol}, "
                "expected the first two at least 1 and the others above 0"
            )
        self.top_k, self.max_iter, self.tol = top_k, max_iter, tol
        self.distance = TokenDistance(
            GroundMetric(token_embeddings, cost_type, cost_components, cost_power, cost_saturation)
        )
        self._fitting = max(LEAST_EPSILON, self.distance.nearest / EPSILONS_TO_NEAREST)
        self.epsilon = self._fitting if epsilon is None else epsilon
        self._solver = solver
        self._shared_costs: Tensor | None = None
        self._warned: set[str] = set()

    @torch.no_grad()
    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        if policy_logits.shape[1] > len(self.distance):
            raise ValueError(
                f"given logits over {policy_logits.shape[1]} tokens and {len(self.distance)} token "
                "embeddings, expected an embedding for each: pass the reference model's own "
                "embeddings, and cut padded logits to their number"
            )
        # In blocks: each holds a distribution over the vocabulary in float32.
        rows = rows_per_block(policy_logits)
        cut = Truncation.joined(
            truncate(policy, reference, self.top_k)
            for policy, reference in zip(
                policy_logits.split(rows), reference_logits.split(rows), strict=True
            )
        )
        # What this moves to the tail is far less than the plan may miss its marginals by.
        lightest = self.tol / (10 * cut.log_policy.shape[1])
        cut, tokens = cut.with_light_tokens_in_tail(lightest)
        vocabulary = policy_logits.shape[1]
        if self._shares_costs(vocabulary, actions):
            solved = self._solve_on_vocabulary(cut, vocabulary, actions)
        else:
            solved = self._solve_in_blocks(cut, tokens, actions)
        token, divergence, error, converged, iterations = solved
        metrics = {
            "marginal_error": mean(error),
            "converged": mean(converged),
            "iterations": mean(iterations),
            "bins": mean(tokens + 1),
            "tail_mass": mean((cut.log_policy[:, -1].exp() + cut.log_reference[:, -1].exp()) / 2),
            "tail_drift": mean(cut.tail_drift),
            "nearest_cost_over_epsilon": self.distance.nearest / self.epsilon * (len(actions) > 0),
        }
        if len(actions) and metrics["converged"] < 1 - UNCONVERGED_SHARE:
            self._warn_once(
                "converged",
                f"transport was not solved to a marginal error of --tol {self.tol:g} within "
                f"--max_iter {self.max_iter} updates at {1 - metrics['converged']:.1%} of the "
                f"positions (mean error {metrics['marginal_error']:.2g}): raise --max_iter, or "
                f"--epsilon above {self.epsilon:g}",
            )
        if metrics["tail_drift"] > UNSEEN_DRIFT:
            self._warn_once(
                "tail_drift",
                f"{metrics['tail_drift']:.1%} of the policy's mass has moved between tokens beyond "
                f"the --top_k {self.top_k} tokens, where the penalty does not see it: raise "
                "--top_k, or lower --temperature",
            )
        return checked_penalty(token, divergence, metrics)

    def _warn_once(self, metric: str, words: str) -> None:
        """The figures differ from chunk to chunk: Python would print all of them."""
        if metric not in self._warned:
            self._warned.add(metric)
            warnings.warn(f"{words} (said once; see penalty/{metric})", stacklevel=3)

    def diagnose(self) -> dict[str, float]:
        """Epsilon and the median nearest cost in units of the mean distance of tokens, and that."""
        nearest = self.distance.nearest
        return {
            "epsilon": self.epsilon,
            "median_nearest_cost": nearest,
            "nearest_cost_over_epsilon": nearest / self.epsilon,
            "mean_cost": self.distance.mean,
        }

    def warning(self) -> str | None:
        """What to tell the user if epsilon is far below all distances; None if it is not.

        Transport is then all but unregularised in a metric that is all but uniform: the penalty
        is near half the sign of pi - rho, which does not shrink as the policy nears its reference.
        """
        nearest = self.distance.nearest
        ratio = nearest / self.epsilon
        if ratio <= FAR_EPSILONS:
            return None
        return (
            f"--epsilon {self.epsilon:g} is far below the distances of this model's tokens: the "
            f"nearest other token lies {nearest:.3g} away (median, in units of the mean distance), "
            f"{ratio:.0f} times epsilon. The penalty is then close to the total variation, in "
            "which near tokens are as far as others, and does not shrink near the reference: "
            f"rounding moves it as much as training. Leave --epsilon unset "
            f"({self._fitting:.2g} here)."
        )

    def _shares_costs(self, vocabulary: int, actions: Tensor) -> bool:
        """Whether one block of costs for all positions is the faster way."""
        in_scaling_domain = 1 / self.epsilon <= LARGEST_SCALED_COST
        on_cpu = self._solver is None and actions.device.type == "cpu" and len(actions) > 0
        return on_cpu and in_scaling_domain and vocabulary <= SHARED_COSTS_UP_TO

    def _solve_in_blocks(
        self, cut: Truncation, tokens: Tensor, actions: Tensor
    ) -> tuple[Tensor, ...]:
        """As `_solve`, for any number of positions, those with like many tokens together.

        A block is as wide as its widest position: peaked distributions cost next to nothing.

        Args:
            tokens: [N] how many tokens of each position have a bin of their own.
        """
        order = tokens.argsort(descending=True, stable=True)
        widths = (tokens[order] + 1).tolist()
        numbers = _numbers_per_block(actions)
        parts, start = [], 0
        while start < len(order):
            width = widths[start]
            end = start + max(1, numbers // (width * max(width, self.distance.dimension)))
            block = order[start:end]
            parts.append(self._solve(cut.rows(block).without_empty_bins(), actions[block]))
            start = end
        parts = parts or [self._solve(cut, actions)]
        places = order.argsort()
        return tuple(torch.cat(column)[places] for column in zip(*parts, strict=True))

    def _solve_on_vocabulary(
        self, cut: Truncation, vocabulary: int, actions: Tensor
    ) -> tuple[Tensor, ...]:
        """As `_solve`, with a bin for every token: most are empty, but the costs are the same for
        all positions, and the products with them are those of matrices.
        """
        dtype, shape = cut.log_policy.dtype, (1, vocabulary + 1, vocabulary + 1)
        costs = self._shared_costs
        if costs is None or costs.shape != shape or costs.dtype != dtype:
            every = torch.arange(vocabulary).unsqueeze(0)
            costs = self._shared_costs = self.distance.block(every, dtype) / self.epsilon
        log_policy, log_reference = cut.on_vocabulary(vocabulary)
        heavier = torch.maximum(log_policy, log_reference).gather(1, actions.unsqueeze(1))
        bins = torch.where(heavier.squeeze(1) > -torch.inf, actions, vocabulary)
        rows = max(1, NUMBERS_PER_BLOCK["cpu"] // (8 * vocabulary))
        parts = [
            self._potentials(log_policy[block], log_reference[block], costs, bins[block])
            for block in torch.arange(len(actions)).split(rows)
        ]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _solve(self, cut: Truncation, actions: Tensor) -> tuple[Tensor, ...]:
        """Token penalty, divergence, marginal error, convergence and updates, [B] each."""
        costs = self.distance.block(cut.tokens, cut.log_policy.dtype) / self.epsilon
        return self._potentials(cut.log_policy, cut.log_reference, costs, cut.bin_of(actions))

    def _potentials(
        self, log_policy: Tensor, log_reference: Tensor, costs: Tensor, bins: Tensor
    ) -> tuple[Tensor, ...]:
        """As `_solve`, from masses [B, S], costs and the bins [B] of the sampled tokens."""
        solver = self._solver or default_solver(costs)
        solved = solver(log_policy, log_reference, costs, self.max_iter, self.tol)
        variation = self.epsilon * (solved.cross_policy - solved.self_policy)
        of_reference = self.epsilon * (solved.cross_reference - solved.self_reference)
        shift = (log_reference.exp() * of_reference).sum(1)
        divergence = (log_policy.exp() * variation).sum(1) + shift
        # It is never negative; what rounding makes so is taken out of phi as well.
        shift, divergence = shift - divergence.clamp(max=0), divergence.clamp(min=0)
        token = variation.gather(1, bins.unsqueeze(1)).squeeze(1) + shift
        return token, divergence, solved.marginal_error, solved.converged, solved.iterations
