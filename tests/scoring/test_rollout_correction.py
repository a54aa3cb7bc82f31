"""Importance weights by enumeration: the policy gradient from responses of another distribution.

The exact gradient of E[R] - beta E[sum_t KL_t] is autograd's; the estimator's is the mean of the
trainer's own loss over all responses under mu, weights and advantages made as the trainer does.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import mean

import pytest
import torch
from dschat.algorithms import ppo_policy_loss
from dschat.algorithms.off_policy import kl_terms, log_ratios, rollout_weights
from dschat.errors import UserError
from dschat.regularization import KLDivergence
from dschat.rollout.experience import Experience, Rollout
from dschat.scoring.faults import find_fault
from dschat.scoring.rollout_correction import RolloutCorrection
from dschat.settings.online import online_config
from tabular import (
    BETA,
    DIVERGENCES,
    PREFIXES,
    experience_of_all,
    logprobs_of,
    objectives_gradient,
    world,
)
from target_fixtures import responses_of, with_gae
from torch import Tensor

LARGE = 1e12
WORLDS = range(20)


def kl_per_response(mu: Tensor, pi: Tensor) -> float:
    """KL between the distributions of whole responses, by their probabilities."""
    p, q = (logprobs_of(table).sum(1).detach() for table in (mu, pi))
    return float((p.exp() * (p - q)).sum())


def behaviour(pi: Tensor, seed: int, nats: float) -> Tensor:
    """Logits of a mu in a random direction from pi, so far that KL(mu || pi) is `nats`."""
    draw = torch.Generator().manual_seed(1000 + seed)
    direction = torch.randn(pi.shape, generator=draw).double()
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        if kl_per_response(pi + middle * direction, pi) < nats:
            low = middle
        else:
            high = middle
    return (pi + low * direction).detach()


def relative_error(
    seed: int, nats: float, kind: str, level: str = "token", cap: float = 2
) -> float:
    """|E_mu[estimator] - gradient| / |gradient|."""
    pi, reference, rewards = world(seed)
    regularizer, nothing = KLDivergence(), torch.zeros(len(PREFIXES), dtype=torch.float64)
    mu = behaviour(pi.detach(), seed, nats)
    made = experience_of_all(pi, reference, rewards, regularizer, nothing)
    e = with_gae(responses_of(made, BETA), made)
    e = replace(e, rollout=replace(e.rollout, behaviour_logprobs=logprobs_of(mu)))
    (e,), _ = RolloutCorrection(kind, cap, level)([e])
    logprobs, mask = logprobs_of(pi), e.rollout.response_mask
    probabilities = logprobs_of(mu).sum(1).exp()
    total = torch.zeros_like(pi)
    for i, probability in enumerate(probabilities):
        row = slice(i, i + 1)
        parts = logprobs[row], e.logprobs[row], e.advantages[row], mask[row]  # type: ignore[index]
        loss = ppo_policy_loss(*parts, clip=0.2, count=1.0)
        total -= probability * torch.autograd.grad(loss, pi, retain_graph=True)[0]
    exact = objectives_gradient(pi, reference, rewards, DIVERGENCES["rkl"])
    return float((total - exact).norm() / exact.norm())


def test_without_mismatch_every_correction_is_the_exact_gradient() -> None:
    for kind in ("none", "tis", "mask"):
        for level in ("token", "sequence"):
            assert relative_error(0, 0.0, kind, level) < 1e-6


def test_untruncated_weights_per_sequence_are_exact_at_any_mismatch() -> None:
    for seed in WORLDS:
        assert relative_error(seed, 0.2, "tis", "sequence", LARGE) < 1e-6


@pytest.mark.parametrize(
    ("nats", "kind", "level", "cap", "documented"),
    [
        (0.02, "none", "token", 2, 0.23),
        (0.02, "tis", "token", LARGE, 0.12),
        (0.02, "tis", "token", 2, 0.12),
        (0.02, "mask", "token", 2, 0.12),
        (0.02, "tis", "sequence", 2, 0.002),
        (0.02, "mask", "sequence", 2, 0.03),
        (0.2, "none", "token", 2, 0.69),
        (0.2, "tis", "token", LARGE, 0.44),
        (0.2, "tis", "token", 2, 0.45),
        (0.2, "mask", "token", 2, 0.61),
        (0.2, "tis", "sequence", 2, 0.27),
        (0.2, "mask", "sequence", 2, 0.61),
    ],
)
def test_the_errors_that_generation_md_documents(
    nats: float, kind: str, level: str, cap: float, documented: float
) -> None:
    found = mean(relative_error(seed, nats, kind, level, cap) for seed in WORLDS)
    assert found == pytest.approx(documented, rel=0.05, abs=5e-4)


def test_the_estimated_kl_is_that_of_whole_responses() -> None:
    """Its expectation under mu, by enumeration: the chain rule over tokens."""
    pi = world(3)[0].detach()
    mu = behaviour(pi, 3, 0.2)
    mask = logprobs_of(pi) != 0
    terms = kl_terms(log_ratios(logprobs_of(pi), logprobs_of(mu), mask))
    expected = float((logprobs_of(mu).sum(1).exp() * terms.sum(1)).sum())
    assert expected == pytest.approx(0.2, rel=1e-9)
    assert (terms >= 0).all()


def test_weights_by_hand() -> None:
    ratios = torch.tensor([[0.4, 1.5, 3.0], [1.2, 1.25, 99.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    behaviour = torch.full_like(ratios, math.log(0.01))
    pi = (ratios.log() + behaviour).masked_fill(~mask, torch.nan)
    tis, cut = rollout_weights(pi, behaviour, mask, "tis", 2.0)
    torch.testing.assert_close(tis, torch.tensor([[0.4, 1.5, 2.0], [1.2, 1.25, 1.0]]))
    assert cut.tolist() == [[False, False, True], [False, False, False]]
    masked, cut = rollout_weights(pi, behaviour, mask, "mask", 2.0)
    torch.testing.assert_close(masked, torch.tensor([[0.0, 1.5, 0.0], [1.2, 1.25, 1.0]]))
    assert cut.tolist() == [[True, False, True], [False, False, False]]
    whole, _ = rollout_weights(pi, behaviour, mask, "tis", 2.0, "sequence")
    torch.testing.assert_close(whole, torch.tensor([[1.8, 1.8, 1.8], [1.5, 1.5, 1.0]]))
    with pytest.raises(ValueError, match="'clip' per 'token'"):
        rollout_weights(pi, behaviour, mask, "clip", 2.0)


def random_batch(seed: int, mismatch: float = 0.3) -> Experience:
    """4 responses of up to 6 tokens with advantages, and log mu around log pi."""
    draw = torch.Generator().manual_seed(seed)
    shape = (4, 6)
    lengths = torch.randint(0, 7, (4,), generator=draw)
    mask = torch.arange(6)[None] < lengths[:, None]
    pi = -torch.rand(shape, generator=draw) * 3
    ids, flags = torch.zeros(shape, dtype=torch.long), torch.zeros(4, dtype=torch.bool)
    behaviour = pi + mismatch * torch.randn(shape, generator=draw)
    rollout = Rollout(
        ids, ids, mask, flags, flags, [], [], [], ids[:, 0], behaviour_logprobs=behaviour
    )
    zero = torch.zeros(shape)
    return Experience(
        rollout, pi, zero, None, zero, zero, torch.zeros(4), torch.randn(shape, generator=draw)
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_two_ranks_measure_what_one_does(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks are two threads that meet in every reduction."""
    batches = [random_batch(seed) for seed in range(6)]
    correction = RolloutCorrection("tis", 1.3, level)
    whole, expected = correction(batches)
    barrier, given = threading.Barrier(2), [torch.empty(0)] * 2
    rank = threading.local()

    def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
        given[rank.number] = tensor.clone()
        barrier.wait()
        both = torch.stack(given)
        barrier.wait()
        return both.sum(0) if op == "sum" else both.max(0).values

    def run(number: int) -> tuple[list[Experience], dict[str, float]]:
        rank.number = number
        return correction(batches[number::2])

    monkeypatch.setattr("dschat.runtime.distributed.all_reduce", all_reduce)
    with ThreadPoolExecutor(2) as ranks:
        found = list(ranks.map(run, range(2)))
    for number, (mine, metrics) in enumerate(found):
        assert metrics == pytest.approx(expected, rel=1e-12)
        for one, other in zip(mine, whole[number::2], strict=True):
            assert torch.equal(one.advantages, other.advantages)  # type: ignore[arg-type]
    assert 0 < expected["rollout/corrected"] < 1
    assert 0.5 < expected["rollout/effective_share"] < 1


def test_what_is_too_far_from_the_policy_stops_the_run() -> None:
    config = online_config(
        actor_model_name_or_path="a", critic_model_name_or_path="b", output_dir="c",
        generation_backend="vllm",
    )  # fmt: skip
    config.validate()
    for dtype, bound in ((torch.float32, "1e-05"), (torch.bfloat16, "0.006")):
        with pytest.raises(UserError, match=f"at most {bound} .*--rollout_max_kl.*native") as error:
            RolloutCorrection.of(config, dtype)([random_batch(0)])
        assert "\n" not in str(error.value)
        near = random_batch(0, mismatch=3e-3 if dtype is torch.float32 else 0.08)
        RolloutCorrection.of(config, dtype)([near])
    allowed = RolloutCorrection.of(config.replace(rollout_max_kl=1.0), torch.float32)
    assert allowed.kind == "tis"
    allowed([random_batch(0)])


def test_a_log_probability_of_the_engine_that_is_no_number_is_a_fault() -> None:
    bad = random_batch(1)
    mask, told = bad.rollout.response_mask, bad.rollout.behaviour_logprobs
    assert told is not None
    bad = replace(bad, rollout=replace(bad.rollout, prompts=[str(i) for i in range(4)]))
    assert find_fault([bad], "r") is None
    told[~mask] = torch.nan
    assert find_fault([bad], "r") is None
    told[mask.nonzero()[0][0], 0] = torch.nan
    assert "sampling engine's log-probability is not finite" in str(find_fault([bad], "r"))
