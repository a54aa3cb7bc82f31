"""The pre-training mix: its gradient is that of the summed objective; places; ZeRO; memory."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dschat.errors import UserError
from dschat.models import output_layer
from dschat.online import updates
from dschat.online.pretraining_mix import PretrainingMix
from online_fixtures import SUBJECTS, make_trainer, online_settings, score, with_targets

COEFFICIENT = 3.0


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    corpus = tmp_path / "corpus.jsonl"
    lines = [{"text": f"{i} cups of {SUBJECTS[i % 8]}, and more to come."} for i in range(300)]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    mix = {"unsupervised_dataset_name": str(corpus), "unsup_coef": COEFFICIENT}
    return lambda **changes: online_settings(
        tmp_path, tiny_model_dir, tiny_reward_dir, **{"max_prompt_seq_len": 40, **mix, **changes}
    )


def objective(model: Any, trainer: Any, experiences: list[Any]) -> torch.Tensor:
    """Policy loss + coefficient * text loss of one optimiser step, by plain autograd."""
    tokens = sum(int(e.rollout.response_mask.sum()) for e in experiences)
    policy = torch.zeros(())
    for e in experiences:
        r, width = e.rollout, e.rollout.response_mask.shape[1]
        positions = (r.attention_mask.cumsum(1) - 1).clamp(min=0)
        logits = model(r.input_ids, r.attention_mask, position_ids=positions).logits
        logprobs = (logits[:, -width - 1 : -1] / trainer.config.temperature).log_softmax(-1)
        logprobs = logprobs.gather(2, r.actions.unsqueeze(2)).squeeze(2)
        ratio = (logprobs - e.logprobs).exp()
        clipped = ratio.clamp(0.8, 1.2)
        terms = torch.maximum(-e.advantages * ratio, -e.advantages * clipped)
        policy = policy + terms[r.response_mask].sum() / tokens
    places = torch.cat([e.rollout.indices for e in experiences]).tolist()
    text = torch.from_numpy(trainer.updater.mix.rows(trainer.iteration, places)).long()
    return policy + COEFFICIENT * model(text, labels=text).loss


def test_the_gradient_is_that_of_the_summed_objective(
    settings: Any, monkeypatch: Any, tiny_model_dir: Path
) -> None:
    from transformers import AutoModelForCausalLM

    trainer = make_trainer(settings(actor_dropout=0.0))
    experiences, _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    experiences = with_targets(trainer, experiences)
    gradients: dict[str, torch.Tensor] = {}
    real = updates.optimizer_step

    def watched(engine: Any) -> float:
        if engine is trainer.actor and engine.is_gradient_accumulation_boundary():
            for name, p in engine.module.model.named_parameters():
                gradients[name] = p.grad.clone()
        return real(engine)

    monkeypatch.setattr(updates, "optimizer_step", watched)
    metrics = trainer.updater.update(trainer.actor, trainer.critic, experiences, 0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    loss = objective(model, trainer, experiences)
    loss.backward()
    assert gradients
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-6, rtol=1e-4)
    total = metrics["policy_loss"] + COEFFICIENT * metrics["unsupervised_loss"]
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert metrics["actor_grad_norm"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"actor_zero_stage": 2},
        {"actor_zero_stage": 3, "actor_gradient_checkpointing": True},
        {"per_device_training_batch_size": 8, "gradient_accumulation_steps": 1},
    ],
)
def test_stages_and_micro_batches_do_the_same(settings: Any, changes: dict[str, Any]) -> None:
    def run(**options: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        from dschat.checkpoint.model_folder import gathered_state_dict

        trainer = make_trainer(settings(actor_dropout=0.0, critic_dropout=0.0, **options))
        rows = [trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8]) for i in range(2)]
        state = gathered_state_dict(trainer.actor.module.model)
        return rows, {n: t.clone() for n, t in state.items()}

    (plain, weights), (other, found) = run(), run(**changes)
    for a, b in zip(plain, other, strict=True):
        for name in ("unsupervised_loss", "policy_loss", "actor_grad_norm"):
            assert b[name] == pytest.approx(a[name], abs=1e-4, rel=1e-3), name
    for name, tensor in weights.items():
        # Adam turns tiny gradients into steps of the learning rate times a sign.
        assert (tensor - found[name]).abs().mean() < 2e-5, name


def test_text_is_learnt(settings: Any) -> None:
    rate = {"actor_learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    trainer = make_trainer(settings(num_train_epochs=3, **rate))
    losses = [trainer.run_iteration(trainer.prompts[:8])["unsupervised_loss"] for _ in range(12)]
    assert losses[0] == pytest.approx(np.log(200), rel=0.1)  # a fresh model's guess
    assert losses[-1] < losses[0] - 1
    assert "unsupervised_loss" not in make_trainer(
        settings(unsupervised_dataset_name=None, unsup_coef=...)
    ).run_iteration(trainer.prompts[:8])


def test_every_place_of_every_iteration_has_its_block() -> None:
    blocks = np.arange(10, dtype=np.int32).reshape(10, 1)
    mix = PretrainingMix(blocks, responses=4, seed=1)
    drawn = [int(x) for i in range(5) for x in mix.rows(i, [0, 1, 2, 3])[:, 0]]
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10] != drawn[10:20]  # every pass has an order of its own
    # A rank takes the blocks of its places.
    assert mix.rows(3, [1, 3])[:, 0].tolist() == [drawn[13], drawn[15]]


def test_no_logits_of_a_whole_block_are_ever_alive(settings: Any, monkeypatch: Any) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    trainer = make_trainer(settings())
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 3 * 200)
    experiences, _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                logits = isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (200,)
                if logits and tensor.shape != (32, 200):  # the output layer's weight, transposed
                    largest = max(largest, tensor.numel())
            return result

    with Watch():
        trainer.actor.backward(trainer.updater.mix.loss(trainer.actor, 0, 2, experiences[0]))
    assert largest == 3 * 200


@pytest.mark.parametrize("lora", [False, True])
def test_an_interrupted_run_goes_on_with_the_text_it_would_have_met(
    settings: Any, tmp_path: Path, lora: bool
) -> None:
    flags = {"enable_test_mode": True, "test_stop_step": 4, "enable_ema": True}
    if lora:
        flags |= {"actor_lora_dim": 4, "actor_lora_module_name": "layers."}
        flags |= {"only_optimize_lora": True}

    def run(name: str, stop: bool = False, **changes: Any) -> Any:
        trainer = make_trainer(settings(output_dir=str(tmp_path / name), **flags, **changes))
        plain = trainer.updater.update
        if stop:

            def interrupted(*given: Any) -> Any:
                if trainer.iteration == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                return plain(*given)

            trainer.updater.update = interrupted
        with trainer.report.log:
            finished = trainer.train()
        assert finished != stop
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    whole = run("whole")
    run("cut", stop=True)
    resumed = run("cut", resume_from_checkpoint="auto")
    names = ("unsupervised_loss", "policy_loss", "divergence", "actor_grad_norm")
    assert len(whole) == len(resumed) == 4
    for a, b in zip(whole, resumed, strict=True):
        assert [b[n] for n in names] == [a[n] for n in names]
    for model in ("actor", "actor_ema"):
        paths = [tmp_path / n / "step-4" / model / "model.safetensors" for n in ("whole", "cut")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_resumed_run_refuses_other_text(settings: Any, tmp_path: Path) -> None:
    flags = {"enable_test_mode": True, "test_stop_step": 3, "checkpoint_steps": 1}
    trainer = make_trainer(settings(**flags))
    with trainer.report.log:
        trainer.train()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("more to come", "no more to come"))
    newest = max((tmp_path / "out").glob("resumable-*"))
    with pytest.raises(UserError, match="checksum of the text"):
        make_trainer(settings(**flags, resume_from_checkpoint=str(newest)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unsupervised_dataset_name": None}, "--unsup_coef 3 needs text"),
        ({"unsup_coef": 0.0}, "for nothing"),
        ({"unsup_coef": -1.0}, "0 or more"),
        ({"unsupervised_dataset_name": "./nowhere"}, "no such file or folder"),
        (
            {
                "unsupervised_dataset_name": None,
                "unsup_coef": 27.8,
                "unsupervised_dataset_config_name": "x",
            },
            "needs --unsupervised_dataset_name",
        ),
    ],
)
def test_flags_that_would_do_nothing_are_refused(
    settings: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(settings(**changes))
