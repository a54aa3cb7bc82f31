"""NaN and infinity: no step is taken, all ranks agree, the batch is kept, a hopeless run stops."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.optimizer import schedule
from dschat.online import updates
from dschat.online.loop import OnlineTrainer
from dschat.rewards import as_reward
from dschat.rollout.experience import Experience, make_rollout
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import deepspeed_settings
from dschat.runtime.faults import GradientWatch, discard_gradients
from dschat.scoring.faults import find_fault
from online_fixtures import make_trainer, online_settings, updates_of

NAN = float("nan")


def small_engine(stage: int, dtype: torch.dtype, offload: bool = False) -> Any:
    import deepspeed

    distributed.init_distributed()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).to(dtype)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(module.parameters(), lr=0.1),
        lr_scheduler=schedule("linear", 0, 0.0, 10),
        config=deepspeed_settings(stage, dtype, 2, 1, 1, offload),
    )
    return engine


def backward(engine: Any, seed: int, scale: float = 1.0) -> float:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, 5, generator=generator).to(engine.module[0].weight.dtype)
    loss = engine(inputs).float().square().mean()
    engine.backward(loss * scale)
    return float(loss.detach())


STAGES = [
    *((stage, dtype, False) for stage in (0, 1, 2, 3) for dtype in (torch.float32, torch.bfloat16)),
    (2, torch.float32, True),
    (3, torch.float32, True),
]


@pytest.mark.parametrize(("stage", "dtype", "offload"), STAGES)
@pytest.mark.parametrize("scale", [1.0, NAN])
def test_a_discarded_step_leaves_no_trace(
    stage: int, dtype: torch.dtype, offload: bool, scale: float
) -> None:
    """With the bad step in between, the good ones give what they give without it."""
    losses, rates = [], []
    for with_bad in (False, True):
        engine = small_engine(stage, dtype, offload)
        watch = GradientWatch(engine.module, torch.device("cpu"))
        found = []
        for seed in range(4):
            if with_bad and seed == 2:
                backward(engine, 99, scale)
                assert watch.take() == (scale == 1.0)
                discard_gradients(engine)
            found.append(backward(engine, seed))
            assert watch.take()
            engine.step()
        losses.append(found)
        rates.append(engine.get_lr())
        assert engine.skipped_steps == int(with_bad)
    assert losses[0] == losses[1]
    assert rates[0] == rates[1]


QUANTITIES = {
    "scores": "a reward of r",
    "logprobs": "the policy's log-probability",
    "reference_logprobs": "the reference's log-probability",
    "token_penalty": "the token penalty",
    "divergence": "the divergence",
    "values": "the critic's value",
    "advantages": "the advantage",
    "returns": "the return",
}


def experience_with(**changes: torch.Tensor) -> Experience:
    """Prompts p and q with responses of 2 and 1 tokens; what is not given is 0."""
    ids = [[5], [5]], [[6, 7], [8]]
    device = torch.device("cpu")
    rollout = make_rollout(*ids, ["p", "q"], ["a", "b"], [{}, {}], 2, 0, device)
    zeros = {name: torch.zeros(2, 2) for name in QUANTITIES} | {"scores": torch.zeros(2)}
    return Experience(rollout, **{**zeros, **changes})


@pytest.mark.parametrize("worst", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("name", QUANTITIES)
def test_every_quantity_is_looked_at_where_it_counts(name: str, worst: float) -> None:
    assert find_fault([experience_with()], "r") is None
    if name == "scores":
        bad = torch.tensor([0.0, worst])
    else:
        bad = torch.tensor([[0.0, 0.0], [worst, 0.0]])
        # The second response has one token: behind it nothing counts.
        masked = experience_with(**{name: torch.tensor([[0.0, 0.0], [0.0, worst]])})
        assert find_fault([masked], "r") is None
    fault = find_fault([experience_with(), experience_with(**{name: bad})], "r")
    assert fault is not None
    assert (fault.quantity, fault.prompts) == (f"{QUANTITIES[name]} is not finite", ("q",))


@pytest.fixture
def trainer_of(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    def make(**changes: Any) -> OnlineTrainer:
        return make_trainer(online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes))

    return make


def run(trainer: OnlineTrainer) -> list[dict[str, Any]]:
    with trainer.report.log:
        trainer.train()
    return [json.loads(line) for line in trainer.report.log.path.read_text().splitlines()]


def kept(trainer: OnlineTrainer) -> list[dict[str, Any]]:
    files = sorted(trainer.bad_steps.folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


class FromReward:
    """Wraps a reward; the response number `at` (in the whole run) gets another value."""

    name = "my_reward"

    def __init__(self, at: set[int], value: Any) -> None:
        self.at, self.value, self.seen = at, value, 0

    def __call__(self, prompts: list[str], *_: Any) -> list[Any]:
        places = range(self.seen, self.seen + len(prompts))
        self.seen += len(prompts)
        return [self.value if place in self.at else 1.0 for place in places]


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_bad_reward_leaves_out_its_iteration_only(trainer_of: Any, value: float) -> None:
    trainer = trainer_of()
    trainer.reward = as_reward(FromReward({10}, value), "my_reward")
    changed = []

    def note(prompts: Any, run_iteration: Any = trainer.run_iteration) -> Any:
        old = {n: p.clone() for n, p in trainer.actor.module.named_parameters()}
        metrics = run_iteration(prompts)
        new = dict(trainer.actor.module.named_parameters())
        changed.append(any(not torch.equal(old[n], new[n]) for n in old))
        return metrics

    trainer.run_iteration = note
    rows = run(trainer)
    assert changed == [True, False, *[True] * 6]
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert rows[-1]["bad_steps"] == 1
    assert all(p.isfinite().all() for p in trainer.actor.module.parameters())
    assert [row["reward"] for row in kept(trainer)].count(str(value)) == 1
    assert len(kept(trainer)) == 8


def test_a_run_that_does_not_recover_stops_with_a_report(trainer_of: Any) -> None:
    trainer = trainer_of(max_bad_steps=2)
    trainer.reward = as_reward(FromReward(set(range(8, 64)), NAN), "my_reward")
    with pytest.raises(UserError, match="2 bad steps in a row") as caught:
        run(trainer)
    for part in ("a reward of my_reward is not finite on rank 0", "What about", "bad_steps"):
        assert part in str(caught.value)
    assert trainer.iteration == 3


def test_weights_that_are_nan_stop_the_run_and_are_never_stepped_on(trainer_of: Any) -> None:
    trainer = trainer_of(max_bad_steps=1)
    parameter = trainer.actor.module.model.model.norm.weight
    with torch.no_grad():
        parameter[3] = NAN
    with pytest.raises(UserError, match=r"Stopped after 1 bad steps.*What about"):
        run(trainer)
    assert len(kept(trainer)) == 8  # what was sampled, without scores
    assert all(row["prompt"] and "reward" not in row for row in kept(trainer))


@pytest.mark.parametrize(("broken", "named"), [("actor", "policy"), ("critic", "value")])
def test_a_loss_that_is_not_finite_is_named(
    trainer_of: Any, broken: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all that it is made of was finite."""
    trainer, plain = trainer_of(max_bad_steps=1), getattr(updates, f"{broken}_loss")

    def poisoned(*arguments: Any) -> Any:
        found = plain(*arguments)
        if broken == "critic":
            return found * NAN
        return {name: value * NAN for name, value in found.items()}

    monkeypatch.setattr(updates, f"{broken}_loss", poisoned)
    before = [updates_of(engine) for engine in (trainer.actor, trainer.critic)]
    with pytest.raises(UserError, match=f"the {named} loss is not finite on rank 0 .*What abou"):
        run(trainer)
    after = [updates_of(engine) for engine in (trainer.actor, trainer.critic)]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("broken", ["actor", "critic"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_bad_gradient_of_one_model_stops_both(
    trainer_of: Any, broken: str, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(actor_zero_stage=stage, critic_zero_stage=stage)
    plain = getattr(updates, f"{broken}_loss")
    calls = []

    def poisoned(*arguments: Any) -> Any:
        """The third optimiser step: the loss is finite, its gradient is not."""
        calls.append(1)
        found = plain(*arguments)
        loss = found["loss"] if broken == "actor" else found
        if len(calls) in (5, 6):
            loss = loss + (loss - loss.detach()).clamp(min=0).sqrt()  # slope 1/0 at 0
        return {**found, "loss": loss} if broken == "actor" else loss

    monkeypatch.setattr(updates, f"{broken}_loss", poisoned)
    weights = []

    def note(prompts: Any, run_iteration: Any = trainer.run_iteration) -> Any:
        metrics = run_iteration(prompts)
        engines = (trainer.actor, trainer.critic)
        weights.append([updates_of(engine) for engine in engines])
        return metrics

    trainer.run_iteration = note
    rows = run(trainer)
    same = [
        [torch.equal(a, b) for a, b in zip(old, new, strict=True)]
        for old, new in itertools.pairwise(weights)
    ]
    assert same == [[False, False], [True, True], *[[False, False]] * 5]
    assert [row["skipped"] for row in rows] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert rows[3]["bad_steps"] == 1


@pytest.mark.parametrize("align", [False, True])
def test_overflow_in_fp16_is_aligned_where_asked(
    trainer_of: Any, align: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fp16 on a CPU: the engines say that they have a loss scale, and the critic overflows."""
    trainer = trainer_of(align_overflow=align, actor_zero_stage=2, critic_zero_stage=2)
    for engine in (trainer.actor, trainer.critic):
        monkeypatch.setattr(engine, "fp16_enabled", lambda: True)
    plain, calls = updates.critic_loss, []

    def poisoned(*arguments: Any) -> Any:
        calls.append(1)
        loss = plain(*arguments)
        bad = len(calls) in (3, 4)
        return loss + (loss - loss.detach()).clamp(min=0).sqrt() if bad else loss

    monkeypatch.setattr(updates, "critic_loss", poisoned)
    rows = run(trainer)
    assert trainer.critic.skipped_steps == 1  # DeepSpeed's own doing
    assert trainer.actor.skipped_steps == int(align)
    assert rows[-1]["bad_steps"] == 0


def test_a_reward_function_that_raises_is_named_with_its_prompt(trainer_of: Any) -> None:
    trainer = trainer_of()

    def fussy(prompts: list[str], responses: list[str], examples: Any) -> list[float]:
        if any("dog" in prompt for prompt in prompts):
            raise KeyError("no dogs")
        return [0.0] * len(prompts)

    trainer.reward = as_reward(fussy)
    with pytest.raises(UserError, match="fussy raised KeyError") as caught:
        run(trainer)
    assert "dog" in str(caught.value)
    assert "no dogs" in str(caught.value)
