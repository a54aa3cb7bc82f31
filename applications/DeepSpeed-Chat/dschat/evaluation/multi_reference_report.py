"""One model beside several references: accuracy by kind of problem, and how far it has gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.evaluation.policies import mean_per_response, sample_rollouts
from dschat.models.policy import PolicyModel
from dschat.models.references import Reference
from dschat.online.answer_accuracy import (
    AccuracyReport,
    PromptResult,
    prompt_results,
    summarise,
)
from dschat.regularization import KLDivergence
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import Sampler
from dschat.settings.answers import FORMS


@dataclass(frozen=True)
class ModelReport:
    """One model on the test problems.

    Attributes:
        overall: on all problems. kinds: on those of each kind, by its name.
        divergences: KL(model || reference) by the reference's name: exact sums over the vocabulary
            at every token of the model's own sampled responses, added up over a response; the mean
            over one response per problem.
    """

    overall: AccuracyReport
    kinds: dict[str, AccuracyReport]
    divergences: dict[str, float]


def report_on(
    policy: PolicyModel,
    references: Mapping[str, Reference],
    prompts: Sequence[PromptExample],
    kinds: Mapping[str, str],
    tokenizer: Any,
    max_new_tokens: int,
    ks: Sequence[int],
    seed: int,
    batch_size: int,
    forms: Sequence[str] = FORMS,
) -> ModelReport:
    """Let a model answer, greedily and by sampling at its temperature, and measure it.

    Args:
        references: by name, of the policy's shared width (see `share_vocabulary`).
        kinds: by name, a text that the written answers of these problems contain.
        ks: of pass@k.
        forms: of answers that are looked for, in this order.

    Raises:
        UserError: no problem is of one of the kinds.
    """
    shared = policy.output_layer.vocabulary_size
    settings = GenerationSettings.of(tokenizer, max_new_tokens, policy.temperature, shared)
    sampler = Sampler(tokenizer, settings, seed, batch_size)
    results = prompt_results(policy.model, prompts, sampler, max(ks), forms=forms)
    rollouts = sample_rollouts(
        policy.model,
        prompts,
        tokenizer,
        max_new_tokens,
        policy.temperature,
        seed,
        batch_size,
        shared,
        keep_empty=True,  # as in training: the end token alone is a response
    )
    exact = KLDivergence("exact")
    return ModelReport(
        overall=summarise(results, ks, forms),
        kinds={
            n: summarise(of_kind(n, text, results, prompts), ks, forms) for n, text in kinds.items()
        },
        divergences={
            name: mean_per_response(policy, rollouts, exact, reference, policy.temperature)
            for name, reference in references.items()
        },
    )


def of_kind(
    name: str, text: str, results: Sequence[PromptResult], prompts: Sequence[PromptExample]
) -> list[PromptResult]:
    """The results on problems whose written answer contains the text; UserError without any."""
    found = [r for r in results if text in str(prompts[r.index].example.get("answer"))]
    if not found:
        raise UserError(
            f"--kinds {name}={text}: the written answer of no test problem contains {text!r}."
        )
    return found
