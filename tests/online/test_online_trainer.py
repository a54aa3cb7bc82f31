"""The online trainer on one rank: ratios, masks, accumulation, reproducibility, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models import output_layer
from dschat.online.losses import policy_terms
from dschat.online.updates import update
from dschat.rewards import as_reward
from online_fixtures import (
    learn,
    make_trainer,
    ready,
    rollouts_of,
    score,
    weights,
    with_targets,
)

END, PAD = 1, 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"actor_gradient_checkpointing": True},
        {"dtype": "bf16", "actor_zero_stage": 2},
        {"temperature": 1.7},
    ],
)
def test_ratios_start_at_exactly_one(settings: Any, changes: dict[str, Any], monkeypatch: Any):
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 200 * 7)  # several chunks in a micro-batch
    trainer = make_trainer(settings(actor_dropout=0.0, **changes))
    for _ in range(2):  # from the start, and again after an update
        experiences, _ = score(trainer, trainer.sample(trainer.prompts[:8]))
        trainer.actor.train()
        for experience in experiences:
            mask = experience.rollout.response_mask
            assert mask.any()
            now = policy_terms(trainer.actor, experience, PAD).logprobs.detach()
            assert torch.equal(now[mask], experience.logprobs[mask])
        learn(trainer, experiences)


def test_logprobs_are_of_the_tempered_policy(settings: Any) -> None:
    trainer = make_trainer(settings(temperature=0.5))
    (experience, *_), _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    r = experience.rollout
    positions = (r.attention_mask.cumsum(1) - 1).clamp(min=0)
    model = trainer.actor.module.model
    logits = model(
        input_ids=r.input_ids, attention_mask=r.attention_mask, position_ids=positions
    ).logits
    length = r.response_mask.shape[1]
    expected = (logits.float() / 0.5).log_softmax(-1)[:, -length - 1 : -1]
    expected = expected.gather(2, r.actions.unsqueeze(2)).squeeze(2)
    mask = r.response_mask
    torch.testing.assert_close(experience.logprobs[mask], expected[mask])
    torch.testing.assert_close(experience.reference_logprobs[mask], expected[mask])
    assert experience.divergence.abs().max() == 0  # the policy is its own reference at first


def test_empty_responses_are_dropped_and_do_not_move_anything(settings: Any) -> None:
    trainer = make_trainer(
        settings(per_device_training_batch_size=8, gradient_accumulation_steps=1)
    )
    long = [[10, 11, 12, END], [20, 21], [30, 31, 32, END], [40, END]]
    empty = [[END]] * 4
    (kept,) = rollouts_of(trainer, long + empty)
    assert kept.dropped.tolist() == [False] * 4 + [True] * 4
    assert not kept.response_mask[4:].any()
    (mixed,) = ready(trainer, [kept])
    (alone,) = ready(trainer, rollouts_of(trainer, long))
    for a, b in zip(_gradient(trainer, mixed), _gradient(trainer, alone), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


def _gradient(trainer: Any, experience: Any) -> list[torch.Tensor]:
    from dschat.algorithms import ppo_policy_loss

    e = experience
    logprobs = policy_terms(trainer.actor.module, e, PAD).logprobs
    mask = e.rollout.response_mask
    loss = ppo_policy_loss(logprobs, e.logprobs, e.advantages, mask, 0.2)
    return list(torch.autograd.grad(loss, list(trainer.actor.module.parameters())))


def test_a_batch_in_which_all_are_dropped_is_skipped_and_training_goes_on(settings: Any) -> None:
    trainer = make_trainer(settings())
    sample = trainer.sample
    trainer.sample = lambda *_: rollouts_of(trainer, [[END]] * 8)
    before = weights(trainer.actor) + weights(trainer.critic)
    metrics = trainer.run_iteration(trainer.prompts[:8])
    assert metrics["skipped"] == 1
    assert metrics["dropped"] == 8
    assert metrics["responses"] == 0
    after = weights(trainer.actor) + weights(trainer.critic)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trainer.sample = sample
    metrics = trainer.run_iteration(trainer.prompts[8:16])
    assert metrics["skipped"] == 0
    assert not torch.equal(before[0], weights(trainer.actor)[0])


@pytest.mark.parametrize("stage", [0, 2])
def test_accumulated_micro_batches_make_the_step_of_one_batch(settings: Any, stage: int) -> None:
    responses = [[10 + i] * (1 + i % 4) for i in range(8)]
    found = []
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        trainer = make_trainer(
            settings(
                per_device_training_batch_size=size,
                gradient_accumulation_steps=accumulation,
                actor_zero_stage=stage,
                critic_zero_stage=stage,
            )
        )
        experiences = ready(trainer, rollouts_of(trainer, responses))
        metrics = update(trainer.actor, trainer.critic, experiences, trainer.updater.loss)
        found.append((metrics, weights(trainer.actor) + weights(trainer.critic)))
    (metrics, parameters), *others = found
    for other_metrics, other_parameters in others:
        for name in ("policy_loss", "value_loss", "ratio"):
            assert other_metrics[name] == pytest.approx(metrics[name], abs=1e-6)
        for a, b in zip(parameters, other_parameters, strict=True):
            # Adam's first step is the learning rate times a sign: tiny gradients may round.
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_the_learning_rate_that_is_logged_is_the_steps_own(settings: Any) -> None:
    # 64 prompts, 8 an iteration: 8 optimiser steps from 1e-3 down to 0.
    trainer = make_trainer(settings(lr_scheduler_type="linear"))
    rows = [trainer.run_iteration(trainer.prompts[:8]) for _ in range(2)]
    for role in ("actor", "critic"):
        assert [r[f"{role}_lr"] for r in rows] == pytest.approx([1e-3, 1e-3 * 7 / 8])


def test_one_seed_gives_one_trajectory_and_another_seed_another(settings: Any) -> None:
    def run(seed: int) -> list[dict[str, float]]:
        trainer = make_trainer(settings(seed=seed))
        rows = [trainer.run_iteration(trainer.prompts[i : i + 8]) for i in (0, 8, 16)]
        return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]

    first = run(3)
    assert run(3) == first
    assert run(4) != first


@pytest.mark.parametrize("wasserstein", [False, True])
def test_scoring_never_holds_positions_times_vocabulary(
    settings: Any, monkeypatch: Any, wasserstein: bool
) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    changes = {"cost_dim": 5, "top_k": 4, "epsilon": 0.1} if wasserstein else {}
    trainer = make_trainer(settings(**changes), wasserstein=wasserstein)
    vocabulary, chunk = 200, 3
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", chunk * vocabulary)
    rollouts = trainer.sample(trainer.prompts[:8])
    positions = sum(int(r.response_mask.sum()) for r in rollouts)
    assert positions > 8 * chunk
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                # [32, V] is the output layer's own weight, transposed.
                logits = isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (vocabulary,)
                if logits and tensor.shape != (32, vocabulary):
                    largest = max(largest, tensor.numel())
            return result

    trainer.actor.module.model.config.use_cache = False
    with Watch():
        trainer.scorer.penalty(trainer.actor, rollouts)
    assert largest == chunk * vocabulary


def test_the_sinkhorn_divergence_is_a_penalty_like_the_others(settings: Any) -> None:
    trainer = make_trainer(settings(regularizer="sinkhorn_divergence", top_k=16))
    assert trainer.config.epsilon is None
    regularizer = trainer.scorer.penalty.regularizer
    assert trainer.checkpointer.run.resolved.epsilon == regularizer.epsilon >= 0.05  # of this model
    first = trainer.run_iteration(trainer.prompts[:8])
    second = trainer.run_iteration(trainer.prompts[8:16])
    assert regularizer.name == "sinkhorn_divergence"
    assert first["divergence"] == pytest.approx(0.0, abs=1e-6)
    assert second["divergence"] > 0
    # phi has the divergence as its mean under the policy, position by position.
    experiences, _ = score(trainer, trainer.sample(trainer.prompts[16:24] * 4))
    off = torch.cat(
        [(e.token_penalty - e.divergence)[e.rollout.response_mask] for e in experiences]
    )
    assert off.abs().max() > 0
    assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5


def test_published_f_divergence_rewards_are_clipped_and_gradient_forms_are_not(settings: Any):
    value = make_trainer(settings())
    gradient = make_trainer(settings(f_div_form="gradient"))
    assert value.scorer.penalty.regularizer.reward_clip == 2.5
    assert gradient.scorer.penalty.regularizer.reward_clip is None


def test_a_reward_function_that_misbehaves_is_named_with_its_prompt(settings: Any) -> None:
    trainer = make_trainer(settings())
    for wrong, message in (
        (lambda p, r, e: [0.0], "1 rewards for 8 responses"),
        (lambda p, r, e: [None] * len(p), "None.*What about"),
        (lambda p, r, e: ["1.0"] * len(p), "'1.0'.*What about"),
        (lambda p, r, e: "1.0", "returned a str"),
    ):
        trainer.reward = as_reward(wrong)
        with pytest.raises(UserError, match=message):
            score(trainer, trainer.sample(trainer.prompts[:8]))


def test_the_reward_models_scores_are_transformers_own(settings: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    trainer = make_trainer(settings())
    experiences, _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    path = trainer.config.critic_model_name_or_path
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    for e in experiences:
        for example, given in zip(e.rollout.examples, e.scores.tolist(), strict=True):
            ids = torch.tensor([example["prompt_ids"] + example["response_ids"]])
            assert float(model(input_ids=ids).logits.detach()) == pytest.approx(given, abs=1e-5)


def test_ppo_learns_a_reward_it_can_reach(settings: Any) -> None:
    # Reward: the share of tokens from one half of the vocabulary, about 1/2 at first.
    trainer = make_trainer(
        settings(
            kl_ctl=0.0,
            actor_learning_rate=5e-3,
            critic_learning_rate=5e-3,
            num_train_epochs=8,
            lr_scheduler_type="constant",
        )
    )

    def share(prompts: list[str], responses: list[str], examples: list[Any]) -> list[float]:
        ids = [e["response_ids"] for e in examples]
        return [sum(token >= 100 for token in r) / len(r) for r in ids]

    trainer.reward = as_reward(share)
    rows = [
        trainer.run_iteration([trainer.prompts[(8 * i + j) % 64] for j in range(8)])
        for i in range(60)
    ]
    rewards = [r["reward"] for r in rows]
    assert sum(rewards[:5]) / 5 < 0.6
    assert sum(rewards[-5:]) / 5 > 0.85


@pytest.mark.parametrize(
    ("changes", "lengths"),
    [
        ({"ngram": 3}, {1, 2, 3}),
        ({"termination_condition": "randomized", "repeat_times": 1}, None),
        ({"termination_condition": "ppl", "value_function": "position"}, None),
    ],
)
def test_tokens_of_a_macro_action_share_advantage_and_return(
    settings: Any, changes: dict[str, Any], lengths: set[int] | None
) -> None:
    trainer = make_trainer(settings(**changes))
    experiences, _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    found, sizes = with_targets(trainer, experiences), set()
    for e in found:
        for advantages, returns, mask in zip(
            e.advantages, e.returns, e.rollout.response_mask, strict=True
        ):
            runs = torch.unique_consecutive(advantages[mask], return_counts=True)[1].tolist()
            assert runs == torch.unique_consecutive(returns[mask], return_counts=True)[1].tolist()
            sizes |= set(runs)
    assert max(sizes) > 1
    assert lengths is None or sizes <= lengths
    assert trainer.run_iteration(trainer.prompts[:8])["ratio"] == pytest.approx(1, abs=0.2)
