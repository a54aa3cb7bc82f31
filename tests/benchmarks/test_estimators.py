"""What docs/estimators.md says of the KL term's estimators, by the command that made its table."""

from __future__ import annotations

import pytest
import torch
from estimators import (
    CASES,
    RESPONSES,
    Audit,
    audit,
    gradient_of,
    in_loss,
    logprobs,
    make_world,
    objective,
    visits,
)

REVERSE_HELD, FORWARD_HELD = "reverse, states held", "forward, states held"
GRADIENTS = {
    "exact, with what earlier tokens pay": ["reverse, whole"],
    "k1 in the reward": ["reverse, whole"],
    "k2 in the reward": [],
    "k3 in the reward": [],
    "k1 in the loss": [],
    "k2 in the loss": [REVERSE_HELD],
    "k3 in the loss": [FORWARD_HELD],
    "k3 in the loss, times the ratio": [REVERSE_HELD],
    "exact in the loss (top-k, k = V)": [REVERSE_HELD],
    "top-k in the loss, k = 2": [REVERSE_HELD],
    "top-k, k = 2, without tail": [],
    "forward, value form": [],
    "forward, value form, low variance": [],
    "forward, gradient form": ["forward, whole"],
    "forward, exact in the loss": [FORWARD_HELD],
    "forward, top-k, k = 2": [FORWARD_HELD],
    "forward, samples": ["forward, of responses"],
    "forward, samples, control variate": ["forward, of responses"],
}


@pytest.fixture(scope="module")
def found() -> dict[str, Audit]:
    world = make_world(0, 0.3)
    return {case.name: audit(world, case) for case in CASES}


def test_the_objectives_are_those_of_whole_responses() -> None:
    world = make_world(3, 0.5)
    p, q = (
        torch.stack([logprobs(table, y).sum() for y in RESPONSES])
        for table in (world.policy, world.reference)
    )
    assert float(p.detach().exp().sum()) == pytest.approx(1)
    assert float(visits(world.policy)[0]) == 1
    torch.testing.assert_close(objective(world, "reverse, whole"), (p.exp() * (p - q)).sum())
    torch.testing.assert_close(objective(world, "forward, of responses"), (q.exp() * (q - p)).sum())


def test_whose_gradient_each_has(found: dict[str, Audit]) -> None:
    assert {name: a.matches for name, a in found.items()} == GRADIENTS


def test_values_without_bias_do_not_make_gradients_without_bias(found: dict[str, Audit]) -> None:
    for name in ("k3 in the reward", "k1 in the loss", "k3 in the loss", "forward, value form"):
        assert abs(found[name].value_bias) < 1e-9, name
        assert found[name].error > 0.2, name
    assert float(found["k1 in the loss"].gradient.norm()) < 1e-12
    # The other way round: k2's value is biased, and its gradient in the loss is not.
    assert abs(found["k2 in the loss"].value_bias) > 1e-3
    # The published value form of the forward KL points away.
    assert found["forward, value form"].cosine < -0.5


def test_variances(found: dict[str, Audit]) -> None:
    exact, k1 = found["exact, with what earlier tokens pay"], found["k1 in the reward"]
    assert exact.variance < 0.2 * k1.variance
    one, two = found["exact in the loss (top-k, k = V)"], found["top-k in the loss, k = 2"]
    assert one.variance < two.variance < found["k2 in the loss"].variance
    plain, control = found["forward, samples"], found["forward, samples, control variate"]
    assert control.variance < 0.6 * plain.variance


def test_on_policy_k3_times_the_ratio_is_k2_response_by_response() -> None:
    world = make_world(1, 0.8)
    pairs = zip(in_loss("k2")(world), in_loss("k3", ratio=True)(world), strict=True)
    for (_, _, k2), (_, _, corrected) in pairs:
        torch.testing.assert_close(gradient_of(corrected, world), gradient_of(k2, world))


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.target.endswith("held")], ids=lambda c: c.name
)
def test_on_another_policys_tokens_only_ratios_and_top_k_remain(case) -> None:
    a = audit(make_world(2, 0.3, stale=0.2), case)
    right = case.name.endswith("the ratio") or "exact" in case.name or case.name.endswith("k = 2")
    assert a.matches == ([case.target] if right else [])
