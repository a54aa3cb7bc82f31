"""Flags of step 3 do what they say: dropout, printing, stopping, saving, offloading, blending."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint.model_folder import gathered_state_dict
from dschat.models.loading import load_causal_lm
from online_fixtures import make_trainer, online_settings, write_prompts


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    return lambda **changes: online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes)


def metrics_of(trainer: Any, iterations: int = 2) -> list[dict[str, float]]:
    rows = []
    for i in range(iterations):
        row = trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8])
        rows.append({k: v for k, v in row.items() if not k.startswith("time/")})
    return rows


@pytest.mark.parametrize(("actor", "critic"), [(0.4, None), (None, 0.4), (0.0, 0.3), (None, None)])
def test_dropout_is_that_of_the_flags(settings: Any, actor: Any, critic: Any) -> None:
    trainer = make_trainer(settings(actor_dropout=actor, critic_dropout=critic))
    (rollout, *_) = trainer.sample(trainer.prompts[:8])
    for engine, dropout in ((trainer.actor, actor), (trainer.critic, critic)):
        attention = engine.module.model.model.layers[0].self_attn
        assert attention.attention_dropout == (dropout or 0.0)
        with torch.no_grad():
            for mode, varies in ((engine.train, bool(dropout)), (engine.eval, False)):
                mode()
                first, second = (engine(*rollout.model_inputs()) for _ in range(2))
                assert torch.equal(first, second) != varies
    frozen = trainer.scorer.penalty.references[0].policy.model.model.layers[0].self_attn
    assert frozen.attention_dropout == 0.0


def test_dropout_reaches_every_dropout_module(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=len(tiny_tokenizer), **size)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for given, expected in ((0.25, 0.25), (0.0, 0.0), (None, 0.1)):
        model = load_causal_lm(
            str(tmp_path), tiny_tokenizer, torch.float32, "model_name_or_path", dropout=given
        )
        found = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        assert found == {expected}


def test_answers_are_printed_every_so_many_iterations(settings: Any, capsys: Any) -> None:
    def printed(**changes: Any) -> list[str]:
        trainer = make_trainer(settings(**changes))
        capsys.readouterr()
        counts = []
        for i in range(4):
            trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8])
            counts.append(capsys.readouterr().out)
        return counts

    every = printed(print_answers=True)
    assert all(out.count("--- prompt: train ") == 1 for out in every)
    assert all(out.count("--- response: ") == 1 for out in every)
    second = printed(print_answers=True, print_answers_interval=2)
    assert [bool(out) for out in second] == [True, False, True, False]
    assert printed() == [""] * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"save_steps": 2}, ["step-2", "step-3"]),
        ({"save_steps": 1}, ["step-1", "step-2", "step-3"]),
        ({"save_steps": 0}, ["step-3"]),
        ({"save_steps": 3}, ["step-3"]),
        # Two generation batches an iteration: N counts these.
        ({"save_steps": 4, "generation_batches": 2}, ["step-4", "step-6"]),
    ],
)
def test_a_run_stops_where_it_is_told_and_saves_on_its_way(
    settings: Any, changes: dict[str, Any], expected: list[str]
) -> None:
    from transformers import AutoModelForCausalLM

    trainer = make_trainer(settings(enable_test_mode=True, test_stop_step=3, **changes))
    with trainer.report.log:
        trainer.train()
    assert trainer.iteration == 3
    output = Path(trainer.config.output_dir)
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 3
    assert sorted(p.name for p in output.glob("step-*")) == expected
    # The last one is the policy as it is now, and an earlier one is not.
    own = gathered_state_dict(trainer.actor.module.model)
    for name in expected:
        saved = AutoModelForCausalLM.from_pretrained(output / name / "actor").state_dict()
        assert all(torch.equal(saved[k], own[k]) for k in own) == (name == expected[-1])


@pytest.mark.parametrize("stage", [2, 3])
def test_offloading_optimisers_changes_where_states_are_and_nothing_else(
    settings: Any, stage: int
) -> None:
    flags = {"actor_zero_stage": stage, "critic_zero_stage": 2}
    here, away = (make_trainer(settings(**flags, offload=o)) for o in (False, True))
    for trainer, device in ((here, None), (away, "cpu")):
        for engine in (trainer.actor, trainer.critic):
            found = engine.zero_offload_optimizer()
            assert (found and str(found.device)) == device
    parameters = away.actor.zero_offload_param()
    assert bool(parameters) == (stage == 3)
    for a, b in zip(metrics_of(here), metrics_of(away), strict=True):
        assert b == pytest.approx(a, abs=1e-6, rel=1e-5)


def test_the_frozen_models_wait_elsewhere(settings: Any, monkeypatch: Any) -> None:
    plain = metrics_of(make_trainer(settings()))
    trainer = make_trainer(settings(offload_reference_model=True))
    waiting = torch.device("cpu")
    (reference,) = trainer.scorer.penalty.references
    assert reference.resting_device == trainer.reward.reward.resting_device == waiting
    # There is one device here: give the resting place a name of its own, and look who goes where.
    rest, moves = object(), []
    for owner, module in (
        (reference, reference.policy),
        (trainer.reward.reward, trainer.reward.reward.model),
    ):
        owner.resting_device = rest
        monkeypatch.setattr(
            module,
            "to",
            lambda place, owner=owner: moves.append((owner, "rest" if place is rest else "device")),
        )
    assert metrics_of(trainer) == plain
    for owner in (reference, trainer.reward.reward):
        own = [place for who, place in moves if who is owner]
        assert own == ["device", "rest"] * 2  # once an iteration


def test_responses_do_not_depend_on_how_the_actor_is_partitioned(
    settings: Any, tmp_path: Path
) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    parts = {"actor_zero_stage": 3, "deepspeed_config": str(path)}

    def responses(**changes: Any) -> list[list[int]]:
        trainer = make_trainer(settings(**changes))
        found = trainer.sample(trainer.prompts[:8])
        trainer.run_iteration(trainer.prompts[8:16])
        found += trainer.sample(trainer.prompts[:8])  # of another policy
        if changes:
            assert all(p.numel() == 0 for p in trainer.actor.module.parameters())  # in parts again
        return [ids for r in found for ids in r.actions.tolist()]

    whole = responses()
    assert whole[:8] != whole[8:]
    assert responses(**parts) == whole
    assert responses(**parts, enable_zero3_generation_gather=True) == whole


def test_prompts_of_several_data_sets_are_blended(settings: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_prompts(other, rows=40)
    for path in other.iterdir():
        path.write_text(path.read_text().replace("What about", "Whence comes"))
    first = str(tmp_path / "prompts")
    trainer = make_trainer(settings(data_path=[first, str(other)]))
    texts = [p.text for p in trainer.prompts]
    assert sum("What about" in t for t in texts) == 64
    assert sum("Whence comes" in t for t in texts) == 40
    row = trainer.run_iteration([*trainer.prompts[:4], *trainer.prompts[-4:]])
    assert row["responses"] + row["dropped"] == 8
