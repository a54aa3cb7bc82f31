"""Bias and variance of the KL term's estimators, value and gradient, by enumeration.

    python benchmarks/estimators.py [--drift 0.3] [--seed 0]

A world of 4 tokens (0 ends), at most 4 of them: 121 responses, policy and reference are tables of
logits, policy = reference + drift x normal. The project's own functions make every response's value
and gradient; the expectations are sums over all responses, the objectives are written out here
and differentiated by autograd. Printed for docs/estimators.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from dschat.algorithms import penalty_to_go, ppo_policy_loss
from dschat.regularization import FDivergence, KLDivergence, SampledKL
from dschat.regularization.divergences import F_FUNCTIONS, KL_ESTIMATORS
from dschat.regularization.sampled_kl import top_k_divergence
from dschat.rollout.reference_samples import positions_in_common
from torch import Tensor

TOKENS, LIMIT = 4, 4
PREFIXES = [p for n in range(LIMIT) for p in itertools.product(range(1, TOKENS), repeat=n)]
ROW = {prefix: row for row, prefix in enumerate(PREFIXES)}
Response = tuple[int, ...]
RESPONSES: list[Response] = [
    (*prefix, a) for prefix in PREFIXES for a in range(TOKENS) if a == 0 or len(prefix) == LIMIT - 1
]
EXACT = 1e-9  # relative


@dataclass(frozen=True)
class World:
    """Tables of logits [prefixes, tokens], float64: learnt, of the reference, and that sampled."""

    policy: Tensor
    reference: Tensor
    old: Tensor


def make_world(seed: int, drift: float, stale: float = 0.0) -> World:
    """`stale`: the policy that sampled is the learnt one + stale x normal."""
    generator = torch.Generator().manual_seed(seed)
    shape = 3, len(PREFIXES), TOKENS
    reference, first, second = torch.randn(shape, generator=generator, dtype=torch.float64)
    policy = reference + drift * first
    return World(policy.clone().requires_grad_(), reference, policy + stale * second)


def rows_of(response: Response) -> list[int]:
    """The table's rows at which a response's tokens are drawn."""
    return [ROW[response[:t]] for t in range(len(response))]


def logprobs(table: Tensor, response: Response) -> Tensor:
    """[T] of the response's tokens."""
    return table.log_softmax(1)[rows_of(response), list(response)]


def probability(table: Tensor, response: Response) -> float:
    """Of the response."""
    return float(logprobs(table.detach(), response).sum().exp())


# The objectives, written out.


def per_state(world: World, forward: bool) -> Tensor:
    """[prefixes] KL(policy || reference) of the next token, or the reverse."""
    log_p, log_q = world.policy.log_softmax(1), world.reference.log_softmax(1)
    return (log_q.exp() * (log_q - log_p) if forward else log_p.exp() * (log_p - log_q)).sum(1)


def visits(table: Tensor) -> Tensor:
    """[prefixes] how probable each is met."""
    p = table.softmax(1)
    found = []
    for prefix in PREFIXES:
        steps = [p[ROW[prefix[:t]], token] for t, token in enumerate(prefix)]
        found.append(torch.stack(steps).prod() if steps else p.new_ones(()))
    return torch.stack(found)


def objective(world: World, name: str) -> Tensor:
    """One of `OBJECTIVES`, differentiable."""
    if name == "forward, of responses":
        each = [
            probability(world.reference, y)
            * (logprobs(world.reference, y) - logprobs(world.policy, y)).sum()
            for y in RESPONSES
        ]
        return torch.stack(each).sum()
    kind, states = name.split(", ")
    met = visits(world.old) if states == "states held" else visits(world.policy)
    return (met * per_state(world, kind == "forward")).sum()


OBJECTIVES = (
    "reverse, whole",  # E_policy[sum_t KL_t] = KL of whole responses
    "reverse, states held",
    "forward, whole",
    "forward, states held",
    "forward, of responses",
)


def gradient_of(value: Tensor, world: World) -> Tensor:
    """In the policy's logits, flat; 0 where there is none."""
    (found,) = torch.autograd.grad(value, world.policy, allow_unused=True, retain_graph=True)
    return torch.zeros_like(world.policy).flatten() if found is None else found.flatten()


# The estimators: (probability, value, loss whose gradient is taken) of each outcome.

Outcomes = Iterator[tuple[float, float, Tensor]]


def in_reward(regularizer: KLDivergence | FDivergence | SampledKL) -> Callable[[World], Outcomes]:
    """The token's penalty as its reward, with the trainer's penalty-to-go and policy loss."""

    def outcomes(world: World) -> Outcomes:
        for y in RESPONSES:
            rows = rows_of(y)
            found = regularizer(world.old[rows], world.reference[rows], torch.tensor(y))
            own = logprobs(world.policy, y).unsqueeze(0)
            mask = torch.ones_like(own, dtype=torch.bool)
            old = logprobs(world.old, y).unsqueeze(0)
            advantages = penalty_to_go(-found.token.double().unsqueeze(0), mask)
            loss = ppo_policy_loss(own, old, advantages, mask, clip=1e9, count=1.0)
            yield probability(world.old, y), float(found.token.sum()), loss

    return outcomes


def exact_whole(world: World) -> Outcomes:
    """KL of every state over the whole vocabulary, in the loss and as what earlier tokens pay."""
    for y in RESPONSES:
        here = per_state(world, False)[rows_of(y)]
        mask = torch.ones(1, len(y), dtype=torch.bool)
        later = penalty_to_go(here.detach().unsqueeze(0), mask)[0] - here.detach()
        loss = (here + logprobs(world.policy, y) * later).sum()
        yield probability(world.old, y), float(here.detach().sum()), loss


def in_loss(term: str, ratio: bool = False) -> Callable[[World], Outcomes]:
    """k of the tokens' log-ratio, differentiated; `ratio`: times that to the old policy."""

    def outcomes(world: World) -> Outcomes:
        for y in RESPONSES:
            own = logprobs(world.policy, y)
            losses = KL_ESTIMATORS[term](own - logprobs(world.reference, y))
            if ratio:
                losses = losses * (own - logprobs(world.old, y)).exp()
            yield probability(world.old, y), float(losses.detach().sum()), losses.sum()

    return outcomes


def top_k(k: int, tail: bool = True, name: str = "rkl") -> Callable[[World], Outcomes]:
    """The k likeliest tokens of the policy that sampled, with or without the sampled tail."""

    def outcomes(world: World) -> Outcomes:
        f = F_FUNCTIONS[name](0.5)
        log_p, log_q = world.policy.log_softmax(1), world.reference.log_softmax(1)
        for y in RESPONSES:
            rows, actions = rows_of(y), torch.tensor(y)
            tokens = world.old[rows].topk(k, dim=1).indices
            inside = (tokens == actions.unsqueeze(1)).any(1)
            losses = top_k_divergence(
                f,
                logprobs(world.policy, y),
                logprobs(world.old, y),
                logprobs(world.reference, y),
                log_p[rows].gather(1, tokens),
                log_q[rows].gather(1, tokens),
                inside if tail else torch.ones_like(inside),
            )
            yield probability(world.old, y), float(losses.detach().sum()), losses.sum()

    return outcomes


def of_samples(control: bool) -> Callable[[World], Outcomes]:
    """-log policy of the reference's responses; `control`: with the coupled control variate."""

    def outcomes(world: World) -> Outcomes:
        for y, own, chance in coupled(world):
            loss = -logprobs(world.policy, y).sum()
            value = float(loss.detach()) + float(logprobs(world.reference, y).sum())
            if control:
                actions = torch.tensor([own])
                mask = torch.ones_like(actions, dtype=torch.bool)
                common = positions_in_common(actions, mask, [[list(y)]], [0], 1)[0]
                # The advantage of a token in common: the trainer's loss is -A log pi here.
                loss = loss + (logprobs(world.policy, own) * common).sum()
            yield chance, value, loss

    return outcomes


def coupled(world: World) -> Iterator[tuple[Response, Response, float]]:
    """(reference's response, policy's tokens up to where they part, probability).

    Both are drawn by inversion of the same uniform numbers, in the order of the tokens.
    """
    ends_q, ends_p = (x.softmax(1).cumsum(1).tolist() for x in (world.reference, world.old))

    def bounds(ends: list[float], a: int) -> tuple[float, float]:
        return (ends[a - 1] if a else 0.0), (ends[a] if a < TOKENS - 1 else 1.0)

    def complete(prefix: Response) -> bool:
        return len(prefix) == LIMIT or (bool(prefix) and prefix[-1] == 0)

    def step(prefix: Response, chance: float) -> Iterator[tuple[Response, Response, float]]:
        row = ROW[prefix]
        for a, b in itertools.product(range(TOKENS), repeat=2):
            (low, high), (low_p, high_p) = bounds(ends_q[row], a), bounds(ends_p[row], b)
            share = chance * (min(high, high_p) - max(low, low_p))
            if share <= 0:
                continue
            y = (*prefix, a)
            if a == b and not complete(y):
                yield from step(y, share)
            else:
                for whole in RESPONSES:
                    if whole[: len(y)] == y:
                        rest = logprobs(world.reference, whole)[len(y) :].sum().exp()
                        yield whole, (*prefix, b), share * float(rest)

    return step((), 1.0)


@dataclass(frozen=True)
class Case:
    """An estimator, what its value should be and what its gradient is compared with first."""

    name: str
    outcomes: Callable[[World], Outcomes]
    target: str


CASES = (
    Case("exact, with what earlier tokens pay", exact_whole, "reverse, whole"),
    Case("k1 in the reward", in_reward(SampledKL("reward", "k1")), "reverse, whole"),
    Case("k2 in the reward", in_reward(SampledKL("reward", "k2")), "reverse, whole"),
    Case("k3 in the reward", in_reward(SampledKL("reward", "k3")), "reverse, whole"),
    Case("k1 in the loss", in_loss("k1"), "reverse, states held"),
    Case("k2 in the loss", in_loss("k2"), "reverse, states held"),
    Case("k3 in the loss", in_loss("k3"), "reverse, states held"),
    Case("k3 in the loss, times the ratio", in_loss("k3", ratio=True), "reverse, states held"),
    Case("exact in the loss (top-k, k = V)", top_k(TOKENS), "reverse, states held"),
    Case("top-k in the loss, k = 2", top_k(2), "reverse, states held"),
    Case("top-k, k = 2, without tail", top_k(2, tail=False), "reverse, states held"),
    Case("forward, value form", in_reward(FDivergence("fkl", form="value")), "forward, whole"),
    Case(
        "forward, value form, low variance",
        in_reward(FDivergence("fkl", form="value", low_variance=True)),
        "forward, whole",
    ),
    Case(
        "forward, gradient form", in_reward(FDivergence("fkl", form="gradient")), "forward, whole"
    ),
    Case("forward, exact in the loss", top_k(TOKENS, name="fkl"), "forward, states held"),
    Case("forward, top-k, k = 2", top_k(2, name="fkl"), "forward, states held"),
    Case("forward, samples", of_samples(False), "forward, of responses"),
    Case("forward, samples, control variate", of_samples(True), "forward, of responses"),
)


@dataclass(frozen=True)
class Audit:
    """Of one estimator; gradients are flat.

    Attributes:
        value_bias: relative to the target. value_deviation: standard deviation over the target.
        gradient: its mean. error: relative distance of it from the target's gradient.
        cosine: with it. variance: trace of the covariance over responses.
        matches: the objectives whose gradient it has exactly.
    """

    value_bias: float
    value_deviation: float
    gradient: Tensor
    error: float
    cosine: float
    variance: float
    matches: list[str]


def audit(world: World, case: Case) -> Audit:
    """Sum over all outcomes."""
    chances, values, gradients = [], [], []
    for chance, value, loss in case.outcomes(world):
        chances.append(chance)
        values.append(value)
        gradients.append(gradient_of(loss, world))
    p = torch.tensor(chances, dtype=torch.float64)
    assert abs(float(p.sum()) - 1) < EXACT  # all outcomes
    v, g = torch.tensor(values, dtype=torch.float64), torch.stack(gradients)
    mean_v, mean_g = (p * v).sum(), p @ g
    wanted = {name: objective(world, name) for name in OBJECTIVES}
    true = {name: gradient_of(value, world) for name, value in wanted.items()}
    target, direction = float(wanted[case.target].detach()), true[case.target]
    size = float(direction.norm())
    matches = [n for n, t in true.items() if float((mean_g - t).norm()) < EXACT * float(t.norm())]
    return Audit(
        float(mean_v) / target - 1,
        float((p * (v - mean_v).square()).sum().sqrt()) / target,
        mean_g,
        float((mean_g - direction).norm()) / size,
        float(torch.cosine_similarity(mean_g, direction, dim=0)),
        float((p * (g - mean_g).square().sum(1)).sum()),
        matches,
    )


EXACT_OF = {
    "reverse, whole": "exact, with what earlier tokens pay",
    "reverse, states held": "exact in the loss (top-k, k = V)",
    "forward, whole": "forward, gradient form",
    "forward, states held": "forward, exact in the loss",
    "forward, of responses": "forward, samples",
}
"""What a variance is divided by that of: the estimator of the same target that sums over the
vocabulary; for responses of the reference, the plain one."""


def print_table(world: World, cases: Sequence[Case]) -> None:
    """A line for each; all that variances are divided by must be among them."""
    found = {case.name: audit(world, case) for case in cases}
    print(
        "| estimator | compared with | value: bias | deviation | gradient: error | cosine "
        "| variance / exact | its gradient is exactly that of |"
    )
    print("|---" * 8 + "|")
    for case in cases:
        a, base = found[case.name], found[EXACT_OF[case.target]].variance
        zero = float(a.gradient.norm()) < EXACT
        matches = "nothing: its mean is 0" if zero else "; ".join(a.matches) or "none of them"
        print(
            f"| {case.name} | {case.target} | {_share(a.value_bias)} | {a.value_deviation:.2f} "
            f"| {_share(a.error)} | {'' if zero else f'{a.cosine:+.3f}'} "
            f"| {a.variance / base:.2f} | {matches} |"
        )


def _share(x: float) -> str:
    return "0" if abs(x) < EXACT else f"{x:+.1%}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drift", type=float, default=0.3, help="of the policy's logits")
    parser.add_argument("--stale", type=float, default=0.1, help="of the policy that sampled")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"On policy, drift {given.drift:g}:\n")
    print_table(make_world(given.seed, given.drift), CASES)
    print(f"\nTokens of a policy {given.stale:g} away:\n")
    held = [case for case in CASES if case.target.endswith("states held")]
    print_table(make_world(given.seed, given.drift, given.stale), held)


if __name__ == "__main__":
    main()
