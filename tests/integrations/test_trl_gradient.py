"""The gradient of TRL's loss with our penalty: our own trainer's, and the exact one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms.estimators import grpo_advantage
from dschat.data.ends import ends_of
from dschat.models.policy import PolicyModel
from dschat.models.references import Reference
from dschat.online.losses import LossSettings, actor_loss, step_counts
from dschat.regularization import FDivergence, KLDivergence, MultiReference, SinkhornDivergence
from dschat.rollout.experience import make_rollout
from dschat.scoring.scoring import PenaltyScorer, to_experience
from dschat.scoring.targets import Targets
from dschat.settings.parts import POLICY_LOSSES
from trl_fixtures import Written, gradients, inputs_of, trainer_of, varied

CPU = torch.device("cpu")
PROMPTS = {"a": [5, 6, 7], "b": [8, 9, 10, 11, 12]}
COMPLETIONS = {
    "a": [[20, 21, 22, 1], [23, 24]],
    "b": [[25, 26, 27, 28, 29, 30], [31, 1]],
}
SCORES = [1.0, 0.25, -0.5, 0.75]
BETA, TEMPERATURE = 0.3, 0.7


def reward(completions: list[str], **columns: Any) -> list[float]:
    return SCORES


@pytest.fixture
def start(tiny_model_dir: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).float()


def our_gradient(
    model: Any, references: list[Any], regularizer: Any, tokenizer: Any, normalization: str
) -> torch.Tensor:
    """Of step 3's own loss on the same responses: scoring, targets, loss."""
    policy = PolicyModel(model, TEMPERATURE)
    frozen = [Reference(PolicyModel(r, TEMPERATURE), CPU) for r in references]
    rollout = make_rollout(
        [PROMPTS[p] for p in "aabb"],
        [*COMPLETIONS["a"], *COMPLETIONS["b"]],
        [""] * 4,
        [""] * 4,
        [{}] * 4,
        ends_of(tokenizer).ids,
        tokenizer.pad_token_id,
        CPU,
    )
    policy.eval()
    (tokens,), _, _ = PenaltyScorer(regularizer, frozen, TEMPERATURE)(policy, [rollout])
    made = to_experience(rollout, tokens, None, torch.tensor(SCORES))
    advantage = partial(grpo_advantage, settings=SimpleNamespace(scale_rewards=False))
    (experience,), _ = Targets(advantage, BETA, regularizer.reward_clip, 0.0, 4, 2)([made], 0)
    ppo = SimpleNamespace(
        clip_range=0.2, clip_range_high=None, dual_clip=None, loss_normalization=normalization
    )
    loss = LossSettings(partial(POLICY_LOSSES["ppo_clip"].load(), settings=ppo), normalization)
    counts = step_counts([experience], normalization)
    policy.train()
    actor_loss(policy, experience, loss, *counts)["loss"].backward()
    return gradients(model)


def regularizer_of(name: str, embeddings: torch.Tensor) -> Any:
    return {
        "kl": lambda: KLDivergence("exact"),
        "clipped": lambda: FDivergence("js"),
        "sinkhorn": lambda: SinkhornDivergence(embeddings, top_k=16),
        "two": lambda: MultiReference(KLDivergence(), [0.3, 0.7]),
    }[name]()


@pytest.mark.parametrize(
    ("name", "loss_type"),
    [("kl", "dapo"), ("kl", "grpo"), ("clipped", "bnpo"), ("sinkhorn", "dapo"), ("two", "dapo")],
)
def test_it_is_our_trainers_gradient(
    name: str, loss_type: str, start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    references = [varied(start, seed) for seed in ((1, 2) if name == "two" else (1,))]
    regularizer = regularizer_of(name, start.get_input_embeddings().weight.detach().clone())
    normalization = "sequence" if loss_type == "grpo" else "token"
    ours = our_gradient(varied(start, 0), references, regularizer, tiny_tokenizer, normalization)
    model = varied(start, 0)
    trainer = trainer_of(
        tmp_path,
        model,
        tiny_tokenizer,
        list(PROMPTS),
        reward,
        Written(PROMPTS, COMPLETIONS),
        regularizer=regularizer,
        references=references,
        coefficient=BETA,
        temperature=TEMPERATURE,
        loss_type=loss_type,
        scale_rewards="none",
    )
    model.train()
    output = trainer._generate_and_score_completions(inputs_of("ab", 2))
    assert output["advantages"].shape == output["completion_ids"].shape
    trainer.compute_loss(model, output).backward()
    theirs = gradients(model)
    assert float(ours.norm()) > 1e-2
    assert float((theirs - ours).norm() / ours.norm()) < 1e-5
