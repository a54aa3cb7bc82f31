"""--regularizer none: no reference is loaded, and nothing is said of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from online_fixtures import make_trainer

OF_A_REFERENCE = {
    *("divergence", "divergence_per_response", "token_penalty", "log_ratio", "penalised_reward"),
}


def test_without_a_penalty_no_reference_is_loaded(settings: Any, monkeypatch: Any) -> None:
    asked: list[str] = []
    from dschat.online.references import load_references

    load = load_references.load_causal_lm
    monkeypatch.setattr(
        load_references, "load_causal_lm", lambda *a, **k: asked.append(a[0]) or load(*a, **k)
    )
    trainer = make_trainer(settings(regularizer="none"))
    assert not asked
    assert not trainer.scorer.penalty.references
    other = make_trainer(settings(kl_ctl=0.0, output_dir=settings()["output_dir"] + "2"))
    assert asked
    pairs = [(t, t.run_iteration(t.prompts[:8])) for t in (trainer, other)]
    (_, none), (_, zero) = pairs
    assert set(zero) >= OF_A_REFERENCE
    assert not OF_A_REFERENCE & set(none)
    for name in ("reward", "policy_loss", "value_loss", "entropy", "actor_grad_norm"):
        assert none[name] == zero[name]
    for a, b in zip(*(t.actor.module.parameters() for t, _ in pairs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_whole_run_writes_rows_without_a_divergence(settings: Any) -> None:
    trainer = make_trainer(settings(regularizer="none", max_steps=2))
    assert trainer.train()
    rows = Path(trainer.config.output_dir, "metrics.jsonl").read_text().splitlines()
    assert rows
    assert not OF_A_REFERENCE & set(json.loads(rows[-1]))


@pytest.mark.parametrize(
    "changes",
    [{"kl_ctl": 0.1}, {"refs": ["somewhere"]}, {"reference_residency": "cpu"}],
)
def test_flags_of_a_reference_are_refused(settings: Any, changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(UserError, match=f"--{name}: with --regularizer none"):
        make_trainer(settings(regularizer="none", **changes))


def test_macro_actions_by_the_references_perplexity_are_refused(settings: Any) -> None:
    with pytest.raises(UserError, match="there is no reference"):
        make_trainer(settings(regularizer="none", termination_condition="ppl"))
