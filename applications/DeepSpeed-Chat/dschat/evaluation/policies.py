"""One policy on held-out prompts: its rewards, its distance from the reference, its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dschat.data.prompts import PromptExample
from dschat.evaluation.text_statistics import distinct_n
from dschat.models.output_layer import tokens_of
from dschat.models.policy import PolicyModel
from dschat.models.references import Reference
from dschat.regularization import PolicyRegularizer
from dschat.rewards import RewardFunction, as_reward, score_responses
from dschat.rollout.experience import Rollout
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import Sampler
from dschat.scoring.scoring import PenaltyScorer


@dataclass(frozen=True)
class PolicyReport:
    """What `evaluate_policy` found.

    Attributes:
        reward, reward_error: mean and standard error over responses.
        divergences: by name, the mean per response of the sum over its tokens.
        length: mean tokens per response, the end token included.
        ended: share of responses that ended by themselves.
        distinct_2: share of different word bigrams.
        responses, rewards: one per prompt.
    """

    reward: float
    reward_error: float
    divergences: dict[str, float]
    length: float
    ended: float
    distinct_2: float
    responses: list[str]
    rewards: list[float]


@torch.no_grad()
def evaluate_policy(
    policy: Any,
    prompts: Sequence[PromptExample],
    tokenizer: Any,
    reference: Reference,
    reward: RewardFunction,
    regularizers: Mapping[str, PolicyRegularizer],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = 64,
) -> PolicyReport:
    """Sample one response per prompt and measure it.

    Policies evaluated with one seed draw the same random numbers for the same prompt, so that
    their difference is not one of luck.

    Args:
        policy: an `AutoModelForCausalLM`.
        regularizers: divergences to measure, by column name.
    """
    model = PolicyModel(policy, temperature).eval()
    for measured in (model, reference):
        measured.limit_vocabulary(tokens_of(tokenizer))
    rollouts = sample_rollouts(
        policy, prompts, tokenizer, max_new_tokens, temperature, seed, batch_size
    )
    divergences = {
        name: mean_per_response(model, rollouts, regularizer, reference, temperature)
        for name, regularizer in regularizers.items()
    }
    return _report(rollouts, reward, divergences)


@torch.no_grad()
def sample_rollouts(
    policy: Any,
    prompts: Sequence[PromptExample],
    tokenizer: Any,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = 64,
    vocabulary_size: int | None = None,
    keep_empty: bool = False,
) -> list[Rollout]:
    """One response per prompt, in batches.

    Args:
        policy: an `AutoModelForCausalLM` in eval mode.
        vocabulary_size: answer with the first so many tokens only; None: the tokenizer's.
        keep_empty: see `make_rollout`.
    """
    settings = GenerationSettings.of(tokenizer, max_new_tokens, temperature, vocabulary_size)
    sampler = Sampler(tokenizer, settings, seed, batch_size)
    responses = sampler.sample(policy, prompts, sampler.numbers(len(prompts)))
    device = next(policy.parameters()).device
    return sampler.rollouts(prompts, responses, batch_size, device, keep_empty=keep_empty)


def mean_per_response(
    model: PolicyModel,
    rollouts: Sequence[Rollout],
    regularizer: PolicyRegularizer,
    reference: Reference,
    temperature: float,
) -> float:
    """The divergence of `model` from `reference`, summed over a response; mean over responses."""
    scores, _, _ = PenaltyScorer(regularizer, [reference], temperature)(model, rollouts)
    total = sum(float(s.divergence.double().sum()) for s in scores)
    return total / sum(len(r.responses) for r in rollouts)


def _report(
    rollouts: list[Rollout], reward: RewardFunction, divergences: dict[str, float]
) -> PolicyReport:
    prompts = [p for r in rollouts for p in r.prompts]
    responses = [t for r in rollouts for t in r.responses]
    examples = [e for r in rollouts for e in r.examples]
    rewards, _ = score_responses(as_reward(reward), prompts, responses, examples)
    spread = torch.tensor(rewards, dtype=torch.float64)
    lengths = [len(e["response_ids"]) for e in examples]
    return PolicyReport(
        reward=float(spread.mean()),
        reward_error=float(spread.std() / len(rewards) ** 0.5) if len(rewards) > 1 else 0.0,
        divergences=divergences,
        length=sum(lengths) / len(lengths),
        ended=float(torch.cat([r.ended for r in rollouts]).float().mean()),
        distinct_2=distinct_n(responses, 2),
        responses=responses,
        rewards=rewards,
    )
