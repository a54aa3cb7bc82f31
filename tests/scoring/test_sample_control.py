"""The control variate of the references' samples: same mean, less variance, by enumeration.

In the world of `test_tabular_world` every pair of a reference's sample and a response drawn with
the same random numbers has a probability: the overlap, token by token, of the intervals that the
inverse cumulative distribution gives to both tokens.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms import ppo_policy_loss
from dschat.data.prompts import PromptExample
from dschat.online.losses import sample_loss
from dschat.rollout.reference_samples import positions_in_common
from dschat.scoring.sample_term import with_samples
from tabular import LIMIT, PREFIXES, RESPONSES, TOKENS, logprobs_of
from tabular_references import COUNT, CPU, TOKENIZER, World, expected_update, experience
from target_fixtures import with_group_targets
from torch import Tensor

Pair = tuple[int, int, float]


def coupled(reference: Tensor, policy: Tensor) -> list[Pair]:
    """(sample, response, probability) where both are drawn with the same uniform numbers."""
    found: list[Pair] = []

    def intervals(table: Tensor, prefix: tuple[int, ...]) -> list[tuple[Any, float, float]]:
        if prefix in RESPONSES:
            return [((), 0.0, 1.0)]  # has ended: whatever the number is
        ends = table[PREFIXES.index(prefix)].softmax(0).cumsum(0).tolist()
        return [((a,), low, ends[a]) for a, low in enumerate([0.0, *ends[:-1]])]

    def extend(sample: tuple[int, ...], response: tuple[int, ...], chance: float) -> None:
        if sample in RESPONSES and response in RESPONSES:
            found.append((RESPONSES.index(sample), RESPONSES.index(response), chance))
            return
        for a, low, high in intervals(reference, sample):
            for b, lowest, highest in intervals(policy, response):
                overlap = min(high, highest) - max(low, lowest)
                if overlap > 0:
                    extend((*sample, *a), (*response, *b), chance * overlap)

    extend((), (), 1.0)
    return found


def a_policy(world: World, drift: float, seed: int) -> Tensor:
    """The first reference, some way off."""
    noise = torch.randn(len(PREFIXES), TOKENS, generator=torch.Generator().manual_seed(seed))
    return (world.references[0] + drift * noise.double()).requires_grad_()


def pairs_of(world: World, policy: Tensor) -> list[Pair]:
    """Samples from the mixture of references, each with its response."""
    found = []
    for weight, reference in zip(world.weights, world.references, strict=True):
        for sample, response, chance in coupled(reference, policy.detach()):
            found.append((sample, response, weight * chance))
    return found


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("drift", [0.3, 2.0])
def test_the_expected_update_is_the_same(algorithm: str, drift: float) -> None:
    """Over samples, responses with their numbers, and the group's other response."""
    world, gamma = World(3, [0.3, 0.7]), 0.8
    policy = a_policy(world, drift, 7)
    logprobs = logprobs_of(policy)
    alone = logprobs.sum(1).exp().detach()
    triples = [(*pair, other) for pair in pairs_of(world, policy) for other in range(COUNT)]
    order = torch.tensor([i for _, first, _, other in triples for i in (first, other)])
    chances = torch.tensor([c * float(alone[other]) for _, _, c, other in triples]).double()
    assert float(chances.sum()) == pytest.approx(1.0)
    prompts = [
        PromptExample([1], "", {}, (list(RESPONSES[sample]),), (0,))
        for sample, *_ in triples
        for _ in range(2)
    ]
    nothing = torch.zeros(COUNT, LIMIT, dtype=torch.float64)
    batch = experience(order, logprobs, nothing, world.rewards)
    config: Any = SimpleNamespace(
        group_size=lambda: 2,
        estimator=algorithm,
        loss_normalization="token",
        sample_coefficient=gamma,
    )
    (e,) = with_samples([batch], prompts, config, TOKENIZER, CPU)
    (e,), _ = with_group_targets([e], len(order), gamma, leave_one_out=algorithm == "rloo")
    assert e.sample_control is None
    loss = ppo_policy_loss(
        logprobs[order],
        e.logprobs,
        e.advantages.double() * chances.repeat_interleave(2).unsqueeze(1),
        e.rollout.response_mask,
        clip=0.2,
        count=1.0,
    )
    of_samples = logprobs[torch.tensor([sample for sample, *_ in triples])]
    weighted = of_samples * chances.unsqueeze(1)
    width = e.samples.response_mask.shape[1]
    loss = loss + sample_loss(weighted[:, :width], e, 1.0, "token")
    (gradient,) = torch.autograd.grad(loss, policy)
    expected = expected_update(policy, world, gamma, None, algorithm, samples=True)
    torch.testing.assert_close(-gradient, expected, atol=1e-5, rtol=1e-4)


def variances(world: World, policy: Tensor) -> tuple[float, float]:
    """Of the gradient of a sample's term, plain and with its control variate."""
    logprobs = logprobs_of(policy)
    gradients = [
        [torch.autograd.grad(x, policy, retain_graph=True)[0].flatten() for x in row[: len(r)]]
        for row, r in zip(logprobs, RESPONSES, strict=True)
    ]
    plain, controlled, chances = [], [], []
    for sample, response, chance in pairs_of(world, policy):
        actions = torch.tensor([RESPONSES[response]])
        common = positions_in_common(
            actions, torch.ones_like(actions, dtype=torch.bool), [[list(RESPONSES[sample])]], [0], 1
        )
        term = -torch.stack(gradients[sample]).sum(0)
        taken = torch.stack(gradients[response])[common[0]].sum(0)
        plain.append(term)
        controlled.append(term + taken)
        chances.append(chance)
    weights = torch.tensor(chances, dtype=torch.float64).unsqueeze(1)
    found = []
    for each in (torch.stack(plain), torch.stack(controlled)):
        mean = (weights * each).sum(0)
        found.append(float((weights * (each - mean).square()).sum()))
    return found[0], found[1]


def test_the_variance_falls_with_the_distance_from_the_references() -> None:
    ratios = []
    for drift in (0.0, 0.03, 0.3, 1.0, 3.0):
        of_seeds = [
            variances(World(seed, [1.0]), a_policy(World(seed, [1.0]), drift, seed + 9))
            for seed in range(1, 5)
        ]
        ratios.append(sum(b for _, b in of_seeds) / sum(a for a, _ in of_seeds))
        print(f"drift {drift}: variance {ratios[-1]:.3f} of the plain one")
    assert ratios[0] < 1e-20
    assert ratios[1] < 0.05
    assert ratios[2] < 0.35
    assert ratios[3] < 1.0


def test_where_response_and_sample_part() -> None:
    actions = torch.tensor([[5, 6, 0, 9], [5, 6, 7, 0], [8, 0, 9, 9], [5, 6, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    samples = [[[5, 6, 7, 0]], [[5, 6, 7, 0]], [[5, 0]], [[5, 6, 7, 0]]]
    found = positions_in_common(actions, mask, samples, [0, 4, 8, 3], 4)
    assert found.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_no_control_where_it_would_have_a_mean() -> None:
    """A response's loss divided by its length, or random numbers that were learnt from before."""
    world = World(1, [1.0])
    logprobs = logprobs_of(world.references[0])
    batch = experience(torch.tensor([0, 3]), logprobs, torch.zeros(COUNT, LIMIT), world.rewards)
    sample = list(RESPONSES[0])
    for normalization, rows, expected in (
        ("token", (0,), True),
        ("sequence", (0,), False),
        ("token", (), False),
    ):
        config: Any = SimpleNamespace(
            group_size=lambda: 2,
            estimator="rloo",
            loss_normalization=normalization,
            sample_coefficient=0.5,
        )
        prompts = [PromptExample([1], "", {}, (sample,), rows)] * 2
        (e,) = with_samples([batch], prompts, config, TOKENIZER, CPU)
        assert (e.sample_control is not None and bool(e.sample_control.any())) == expected
