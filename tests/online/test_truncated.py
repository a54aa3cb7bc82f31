"""--mask_truncated and --missing_eos_penalty: responses that did not end by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dschat.online.losses import step_counts, without_truncated
from dschat.scoring.targets import clipped_scores
from online_fixtures import make_trainer, ready, rollouts_of, weights


def one_micro_batch(trainer: Any) -> Any:
    (e,) = ready(trainer, rollouts_of(trainer, [[10 + i] * (1 + i % 4) for i in range(8)]))
    ended = torch.tensor([i % 3 > 0 for i in range(8)])
    return replace(e, rollout=replace(e.rollout, ended=ended))


WHOLE = {"per_device_training_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_the_update_is_the_one_without_these_rows(settings: Any, normalization: str) -> None:
    """Another run in which their advantages are 0 and the losses are divided by what is left."""
    flags = {**WHOLE, "loss_normalization": normalization}
    trainer = make_trainer(settings(**flags, mask_truncated=True))
    e = one_micro_batch(trainer)
    found = trainer.updater.update(trainer.actor, trainer.critic, [e], 0)
    other = make_trainer(settings(**flags))
    garbage = torch.where(e.rollout.ended.unsqueeze(1), e.advantages, torch.nan)
    left = e.rollout.response_mask.clone()
    left[~e.rollout.ended] = False
    kept = replace(e, advantages=garbage, rollout=replace(e.rollout, response_mask=left))
    expected = other.updater.update(other.actor, other.critic, [kept], 0)
    assert found["policy_loss"] == pytest.approx(expected["policy_loss"], abs=1e-6)
    for a, b in zip(weights(trainer.actor), weights(other.actor), strict=True):
        torch.testing.assert_close(a, b)


def test_they_leave_the_normalisers_but_the_constant_one(settings: Any) -> None:
    e = one_micro_batch(make_trainer(settings(**WHOLE)))
    masked = without_truncated(e)
    assert step_counts([masked], "sequence")[0] == int(e.rollout.ended.sum()) == 5
    tokens = e.rollout.response_mask[e.rollout.ended].sum()
    assert step_counts([masked], "token") == (tokens, tokens)
    assert step_counts([masked], "constant", 6)[0] == step_counts([e], "constant", 6)[0] == 48


def test_the_penalty_is_taken_off_after_clipping(settings: Any) -> None:
    e = one_micro_batch(make_trainer(settings(**WHOLE)))
    e = replace(e, scores=torch.tensor([5.0] * 8))
    expected = torch.where(e.rollout.ended, 2.5, 1.5)
    assert torch.equal(clipped_scores(e, 2.5, 1.0), expected)
