"""Losses and advantages beside those of verl and OpenRLHF, as their own functions gave them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms import loss_count
from dschat.algorithms.estimators import (
    Responses,
    gae_advantage,
    grpo_advantage,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
    rloo_advantage,
    whitened,
)
from dschat.settings.parts import POLICY_LOSSES
from torch import Tensor

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "peer_losses.json").read_text())
INPUTS = {name: torch.tensor(x, dtype=torch.float64) for name, x in VECTORS["inputs"].items()}
MASK = INPUTS["mask"].bool()
TOKENS = MASK.shape[1]

# Their name -> ours, the normaliser and what differs from the settings below.
HIGHER: dict[str, Any] = {"clip_range_high": 0.28, "gspo_clip_range_high": 0.28}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "verl vanilla token-mean": ("ppo_clip", "token", {**HIGHER, "dual_clip": 3.0}),
    "verl vanilla dual clip": ("ppo_clip", "token", {**HIGHER, "dual_clip": 1.5}),
    "verl vanilla seq-mean-token-mean": ("ppo_clip", "sequence", {"dual_clip": 3.0}),
    "verl vanilla seq-mean-token-sum-norm": ("ppo_clip", "constant", {"dual_clip": 3.0}),
    "verl gspo": ("gspo", "sequence", HIGHER),
    "verl cispo": ("cispo", "token", {}),
    "verl dppo_tv": ("dppo", "token", {"dppo_divergence": "tv", "dppo_threshold": 0.05}),
    "verl dppo_kl": ("dppo", "token", {"dppo_divergence": "kl", "dppo_threshold": 0.002}),
    "openrlhf ppo token": ("ppo_clip", "token", HIGHER),
    "openrlhf ppo sequence": ("ppo_clip", "sequence", HIGHER),
    "openrlhf ppo dual clip": ("ppo_clip", "token", {**HIGHER, "dual_clip": 1.5}),
    "openrlhf gspo": ("gspo", "sequence", HIGHER),
}
SETTINGS: dict[str, Any] = {
    "clip_range": 0.2,
    "clip_range_high": None,
    "dual_clip": None,
    "gspo_clip_range": 0.2,
    "gspo_clip_range_high": 0.2,
    "cispo_ratio_min": 0.0,
    "cispo_ratio_max": 1.28,
}


def ours(case: str, **changes: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    name, normalization, settings = CASES[case]
    settings = SETTINGS | {"loss_normalization": normalization} | settings | changes
    advantages = INPUTS["advantages"]
    if case == "openrlhf gspo":  # its sequence ratio has the gradient of ours only then
        advantages = advantages[:, :1].expand_as(advantages)
    logprobs = INPUTS["logprobs"].clone().requires_grad_()
    loss, _ = POLICY_LOSSES[name].load()(
        logprobs,
        INPUTS["old_logprobs"],
        advantages,
        MASK,
        loss_count(MASK, normalization, TOKENS),
        SimpleNamespace(**settings),
    )
    return loss.detach(), torch.autograd.grad(loss, logprobs)[0]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_theirs(case: str) -> None:
    expected = VECTORS["losses"][case]
    loss, gradient = ours(case)
    theirs = torch.tensor(expected["gradient"], dtype=torch.float64)
    assert float(theirs.abs().max()) > 0.01
    torch.testing.assert_close(gradient, theirs, rtol=1e-7, atol=1e-9)
    if "dppo" not in case:  # verl writes that one as sg[r] log pi: another value, its gradient
        assert float(loss) == pytest.approx(expected["loss"], rel=1e-7)


def test_every_case_of_the_vectors_is_compared() -> None:
    assert set(CASES) == set(VECTORS["losses"])


def advantages(estimator: Any, penalties: bool, **settings: Any) -> Any:
    zeros = torch.zeros_like(INPUTS["penalties"])
    responses = Responses(
        scores=INPUTS["scores"],
        penalties=torch.where(MASK, INPUTS["penalties"], zeros) if penalties else zeros,
        mask=MASK,
        groups=INPUTS["groups"].long(),
        values=INPUTS["values"],
        macro_actions=torch.arange(TOKENS).expand(MASK.shape),
    )
    return estimator(responses, SimpleNamespace(**settings))


def theirs(name: str) -> Tensor:
    return torch.tensor(VECTORS["advantages"][name], dtype=torch.float64)


def assert_same(found: Tensor, name: str) -> None:
    torch.testing.assert_close(found[MASK].double(), theirs(name)[MASK], rtol=1e-5, atol=1e-6)


def test_advantages_are_verls() -> None:
    assert_same(advantages(grpo_advantage, False, scale_rewards=False).advantages, "grpo")
    assert_same(advantages(rloo_advantage, False).advantages, "rloo")


def test_the_advantages_that_are_scaled_differ_by_bessels_factor() -> None:
    """Their standard deviations are the unbiased ones, of a group or of all tokens."""
    group = (2 / 3) ** 0.5
    scaled = advantages(grpo_advantage, False, scale_rewards=True).advantages
    assert_same(scaled * group, "grpo scaled")
    tokens = int(MASK.sum())
    batch = ((tokens - 1) / tokens) ** 0.5
    found = advantages(reinforce_plus_plus, True, gamma=0.9).advantages
    assert_same(found * batch, "reinforce++")
    found = advantages(reinforce_plus_plus_baseline, False).advantages
    assert_same(found * batch, "reinforce++_baseline")


def test_gae_and_its_returns_are_verls() -> None:
    found = advantages(gae_advantage, True, gamma=0.9, lam=0.8, value_function="equal")
    tokens = int(MASK.sum())
    white = whitened(found, MASK).advantages
    assert_same(white * ((tokens - 1) / tokens) ** 0.5, "gae")
    assert_same(found.returns, "gae returns")
