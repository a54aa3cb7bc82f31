"""What sampling keeps is what a pass over prompt and response would find."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.policy import PolicyModel
from dschat.models.references import Reference
from dschat.regularization import KLDivergence
from dschat.rewards import as_reward
from dschat.rollout.experience import make_rollout
from dschat.rollout.generation import generate, uniform_numbers
from dschat.rollout.sampled_states import SampledStates
from dschat.scoring.scoring import PenaltyScorer
from online_fixtures import make_trainer, online_settings
from small_models import END, PAD, SMALL, VOCABULARY, padded, request_for, small_model

LIMIT = 90
TEMPERATURE = 0.8


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    own = [torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in (3, 30, 7, 1)]
    return [own[i] for i in (0, 1, 1, 2, 3, 1, 0, 2)]


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "mistral"])
def test_scores_are_those_of_a_pass_over_the_responses(kind: str) -> None:
    model = small_model(kind)
    own = prompts()
    rows = padded(own)
    uniform = uniform_numbers(len(own), LIMIT, seed=0, step=0)
    kept = SampledStates(len(own), LIMIT)
    responses = generate(model, request_for(rows, uniform, LIMIT, TEMPERATURE, kept=kept))
    assert responses == generate(model, request_for(rows, uniform, LIMIT, TEMPERATURE))
    assert len({len(r) for r in responses}) > 1
    assert max(len(r) for r in responses) > SampledStates.FIRST_ROOM

    texts = [""] * len(own)
    arguments = (own, responses, texts, texts, [{}] * len(own), END, PAD, torch.device("cpu"))
    rollouts = [make_rollout(*arguments, states=s) for s in (None, kept.of_responses(responses))]
    other = small_model(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    scorer = PenaltyScorer(
        KLDivergence("exact"), [Reference(PolicyModel(other, TEMPERATURE), "cpu")], TEMPERATURE
    )
    passes: list[int] = []
    actor = PolicyModel(model, TEMPERATURE).eval()
    actor.register_forward_pre_hook(lambda *_: passes.append(1))
    (expected,), _, n = scorer(actor, rollouts[:1])
    assert len(passes) == 1
    (found,), _, m = scorer(actor, rollouts[1:])
    assert len(passes) == 1, "the actor is not asked again"
    assert n == m > 200  # a response of the end token alone has none
    for name in ("logprobs", "reference_logprobs", "token_penalty", "divergence"):
        close = {"rtol": 1e-4, "atol": 2e-5}
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **close)


@pytest.mark.parametrize(
    "changes",
    [
        {"ppo_epochs": 2},
        {"actor_zero_stage": 3, "enable_zero3_generation_gather": True},
        {"actor_lora_dim": 2, "actor_lora_module_name": "layers.", "only_optimize_lora": True},
        {"algorithm": "grpo", "num_generations": 4, "f_div": "js"},
    ],
    ids=["ppo", "zero3", "lora", "grpo"],
)
def test_iterations_are_those_with_the_pass(
    changes: dict[str, Any], tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    rows: dict[bool, list[dict[str, float]]] = {}
    asked: dict[bool, int] = {}
    for reuse in (False, True):
        settings = online_settings(
            tmp_path / str(reuse), tiny_model_dir, tiny_reward_dir, max_answer_seq_len=20, **changes
        )
        trainer = make_trainer({**settings, "reuse_rollout_logprobs": reuse})
        passes: list[int] = []
        trainer.actor.module.register_forward_hook(
            lambda module, args, out, passes=passes: passes.append(not module.training)
        )
        size = trainer.responses // trainer.group_size
        rows[reuse] = [
            trainer.run_iteration(trainer.prompts[i * size : (i + 1) * size]) for i in range(3)
        ]
        asked[reuse] = sum(passes)
    # With adapters only, the reference is the same model.
    assert asked[False] > 0
    assert asked[True] == (asked[False] // 2 if "only_optimize_lora" in changes else 0)
    for found, expected in zip(rows[True], rows[False], strict=True):
        wanted = {k: v for k, v in expected.items() if not k.startswith("time/")}
        assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=2e-3, abs=3e-5)


def test_states_are_out_of_memory_before_the_rewards(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    settings = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir)
    trainer = make_trainer({**settings, "reuse_rollout_logprobs": True})
    sample, reward = trainer.sample, trainer.reward
    kept: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def sampled(*given: Any) -> Any:
        rollouts = sample(*given)
        kept.extend(weakref.ref(rollout.states) for rollout in rollouts)
        return rollouts

    def rewarded(*given: Any) -> Any:
        alive.append(sum(states() is not None for states in kept))
        return reward(*given)

    trainer.sample, trainer.reward = sampled, as_reward(rewarded)
    trainer.run_iteration(trainer.prompts[:8])
    assert len(kept) == 2
    assert alive == [0]


def test_what_cannot_keep_states_is_refused(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    model = small_model("mistral")
    asked = request_for(padded([[2, 3]]), None, 4, kept=SampledStates(1, 4))
    with pytest.raises(ValueError, match="MistralForCausalLM"):
        generate(model, asked)
    settings = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, actor_zero_stage=3)
    with pytest.raises(UserError, match="--reuse_rollout_logprobs with --actor_zero_stage 3"):
        make_trainer({**settings, "reuse_rollout_logprobs": True})
