"""The logged entropy and the entropy bonus, against whole logits and closed forms."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms.losses import ppo_clip
from dschat.errors import UserError
from dschat.online.losses import LossSettings, actor_loss
from dschat.online.updates import update
from dschat.rollout.experience import Experience, Rollout
from online_fixtures import make_trainer, ready, rollouts_of, weights
from tabular import LIMIT, RESPONSES, logprobs_of, rows_of, world
from tabular_actor import Table, met
from torch.distributions import Categorical


def entropies(trainer: Any, rollout: Rollout) -> torch.Tensor:
    """[n] of the active positions, by transformers and torch.distributions in float64."""
    mask = rollout.attention_mask
    places = (mask.cumsum(1) - 1).clamp(min=0)
    model = trainer.actor.module.model.eval()
    logits = model(input_ids=rollout.input_ids, attention_mask=mask, position_ids=places).logits
    length = rollout.response_mask.shape[1]
    active = logits[:, -length - 1 : -1][rollout.response_mask].double()
    return Categorical(logits=active / trainer.config.temperature).entropy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"f_div": "js", "f_div_form": "gradient"},
        {"algorithm": "grpo", "num_generations": 4, "per_device_training_batch_size": 8},
        {"refs": 2},
    ],
)
def test_the_logged_entropy_is_that_of_whole_logits(
    settings: Any, tiny_model_dir: Path, changes: dict[str, Any]
) -> None:
    if changes.get("algorithm") == "grpo":
        changes = {**changes, "gradient_accumulation_steps": 1}
    if "refs" in changes:
        changes = {"refs": [str(tiny_model_dir)] * 2, "ref_weights": [0.3, 0.7]}
    trainer = make_trainer(settings(**changes))
    size = 8 // trainer.group_size
    sample, expected = trainer.sample, []

    def look(*args: Any) -> Any:
        rollouts = sample(*args)
        expected.extend(entropies(trainer, r).detach() for r in rollouts)
        return rollouts

    trainer.sample = look
    metrics = trainer.run_iteration(trainer.prompts[:size])
    assert metrics["entropy"] == pytest.approx(float(torch.cat(expected).mean()), abs=1e-5)
    assert "entropy_loss" not in metrics


def loss_of(trainer: Any, experience: Experience, **options: Any) -> dict[str, torch.Tensor]:
    tokens = float(experience.rollout.response_mask.sum())
    settings = dataclasses.replace(trainer.updater.loss, **options)
    count = tokens if settings.normalization == "token" else 8.0
    return actor_loss(trainer.actor.module, experience, settings, count, tokens)


@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_the_bonus_is_the_coefficient_times_the_mean_entropy(
    settings: Any, normalization: str
) -> None:
    changes = {"per_device_training_batch_size": 8, "gradient_accumulation_steps": 1}
    trainer = make_trainer(settings(loss_normalization=normalization, **changes))
    responses = [[10 + i] * (1 + i % 4) for i in range(8)]
    (experience,) = ready(trainer, rollouts_of(trainer, responses))
    trainer.actor.module.eval()
    plain = loss_of(trainer, experience)
    assert "entropy_loss" not in plain
    found = loss_of(trainer, experience, entropy_coefficient=0.3)
    mean = entropies(trainer, experience.rollout).mean()
    torch.testing.assert_close(found["entropy_loss"].double(), -0.3 * mean, atol=0, rtol=1e-6)
    assert torch.equal(found["policy_loss"], plain["policy_loss"])
    parameters = list(trainer.actor.module.parameters())
    expected = torch.autograd.grad(plain["loss"] - 0.3 * mean, parameters)
    given = torch.autograd.grad(found["loss"], parameters)
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_shards_of_a_step_make_the_step_of_one_batch(settings: Any, lora: bool) -> None:
    responses = [[10 + i] * (1 + i % 4) for i in range(8)]
    changes: dict[str, Any] = {"entropy_coef": 0.5, "actor_zero_stage": 2}
    if lora:
        changes |= {"actor_lora_dim": 4, "actor_lora_module_name": "layers."}
        changes |= {"only_optimize_lora": True, "actor_lora_learning_rate": 1e-3}
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        flags = {"per_device_training_batch_size": size}
        flags |= {"gradient_accumulation_steps": accumulation, **changes}
        trainer = make_trainer(settings(**flags))
        assert trainer.updater.loss.entropy_coefficient == 0.5
        experiences = ready(trainer, rollouts_of(trainer, responses))
        metrics = update(trainer.actor, trainer.critic, experiences, trainer.updater.loss)
        found.append((metrics, weights(trainer.actor)))
    (one, whole), (four, shards) = found
    assert one["entropy_loss"] < -1
    for name in ("entropy_loss", "policy_loss", "actor_grad_norm"):
        assert four[name] == pytest.approx(one[name], abs=1e-5)
    for a, b in zip(whole, shards, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("stage", [0, 3])
def test_without_advantages_the_bonus_alone_raises_the_entropy(settings: Any, stage: int) -> None:
    trainer = make_trainer(settings(entropy_coef=0.01, actor_zero_stage=stage))
    rollouts = rollouts_of(trainer, [[10 + i] * (1 + i % 4) for i in range(8)])
    experiences = [
        dataclasses.replace(e, advantages=torch.zeros_like(e.logprobs))
        for e in ready(trainer, rollouts)
    ]
    losses = [
        update(trainer.actor, trainer.critic, experiences, trainer.updater.loss)["entropy_loss"]
        for _ in range(3)
    ]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < losses[0] - 0.01 * 0.001  # at least 0.001 nats


CLIP = SimpleNamespace(
    clip_range=0.2, clip_range_high=None, loss_normalization="token", dual_clip=None
)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_bonus_is_the_entropies_gradient_at_the_states_visited(seed: int) -> None:
    # Over all responses: sum over prefixes of P(prefix is met) * dH(prefix)/dlogits.
    policy, *_ = world(seed)
    zeros = torch.zeros(1, LIMIT, dtype=torch.float64)
    total = torch.zeros_like(policy)
    logprobs = logprobs_of(policy).detach()
    for i, response in enumerate(RESPONSES):
        mask = torch.tensor([[t < len(response) for t in range(LIMIT)]])
        ids = torch.tensor([[*response, *[0] * (LIMIT - len(response))]])
        flag = torch.zeros(1, dtype=torch.bool)
        rollout = Rollout(ids, ids, mask, flag, flag, [""], [""], [{}], torch.arange(1))
        experience = Experience(
            rollout, logprobs[i : i + 1], zeros, None, zeros, zeros, zeros[:, 0], zeros
        )
        actor = Table(policy, rows_of(response))
        loss = LossSettings(partial(ppo_clip, settings=CLIP), entropy_coefficient=0.7)
        parts = actor_loss(actor, experience, loss, 1.0, 1.0)
        (gradient,) = torch.autograd.grad(parts["loss"], policy)
        total -= logprobs[i].sum().exp() * gradient
    pi = policy.detach().softmax(1)
    entropy = -(pi * pi.log()).sum(1, keepdim=True)
    reached = met(policy.detach())
    expected = 0.7 * reached.unsqueeze(1) * -pi * (pi.log() + entropy)
    torch.testing.assert_close(total, expected, atol=1e-12, rtol=1e-9)


def test_a_negative_coefficient_is_refused(settings: Any) -> None:
    with pytest.raises(UserError, match="--entropy_coef -0.1: expected 0 or more"):
        make_trainer(settings(entropy_coef=-0.1))
