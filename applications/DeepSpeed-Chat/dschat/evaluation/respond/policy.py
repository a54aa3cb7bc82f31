"""The policy: its responses, and how far they are from a reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dschat.data.ends import ends_of
from dschat.data.prompts import PromptExample
from dschat.evaluation.respond.partial import Rows
from dschat.evaluation.respond.stages import Batch
from dschat.models.loading import check_context, load_causal_lm
from dschat.models.output_layer import cut_vocabulary, tokens_of
from dschat.models.policy import PolicyModel, check_output_layer
from dschat.models.references import Reference
from dschat.regularization import KLDivergence, PolicyRegularizer, SinkhornDivergence
from dschat.rollout.experience import Rollout, make_rollout
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import Sampler
from dschat.scoring.scoring import PenaltyScorer

DIVERGENCES = ("KL", "Sinkhorn")


@dataclass(frozen=True)
class Policy:
    """The policy that answers.

    Attributes:
        path, flag: where it lies, and the flag that said so.
        tokenizer: with a pad token; see `ends_of` for what ends a response.
        temperature: 0: greedy.
        top_k: sample among the top_k tokens only; None: all.
        width: of the output layers; None: the tokenizer's tokens.
    """

    path: str
    flag: str
    tokenizer: Any
    temperature: float
    max_new_tokens: int
    seed: int
    dtype: torch.dtype
    device: torch.device
    top_k: int | None = None
    width: int | None = None

    def load(self, path: str, flag: str) -> Any:
        """A model of this tokenizer, without the output layer's padding: what cannot be decoded
        is not sampled, and all models have the same tokens.
        """
        model = load_causal_lm(path, self.tokenizer, self.dtype, flag)
        return (
            cut_vocabulary(model, self.width or tokens_of(self.tokenizer))
            .to(self.device)
            .eval()
            .requires_grad_(False)
        )


@contextmanager
def responding(policy: Policy, prompts: Sequence[PromptExample]) -> Iterator[Batch]:
    """Sample responses: rows with `response_ids`, `response` and `ended`.

    Each prompt has its own random numbers, by its index among all prompts.
    """
    p, tokenizer = policy, policy.tokenizer
    model = policy.load(policy.path, policy.flag)
    longest = max(len(prompt.ids) for prompt in prompts)
    check_context(
        model.config,
        longest + p.max_new_tokens,
        f"prompts of {longest} + --max-new-tokens {p.max_new_tokens}",
    )
    settings = GenerationSettings.of(tokenizer, p.max_new_tokens, p.temperature, top_k=p.top_k)
    sampler = Sampler(tokenizer, settings, p.seed, device=p.device)
    uniform = sampler.numbers(len(prompts)) if p.temperature > 0 else None

    def batch(indices: list[int]) -> list[dict[str, Any]]:
        rows = None if uniform is None else uniform[indices]
        found = sampler.sample(model, [prompts[i] for i in indices], rows)
        texts = sampler.decode(found)
        return [
            {
                "index": i,
                "response": text,
                "response_ids": response,
                "ended": sampler.ended(response),
            }
            for i, text, response in zip(indices, texts, found, strict=True)
        ]

    yield batch


@contextmanager
def diverging(
    policy: Policy,
    reference: str,
    prompts: Sequence[PromptExample],
    responses: Rows,
    names: Sequence[str] = DIVERGENCES,
    epsilon: float | None = None,
) -> Iterator[Batch]:
    """Divergences of the policy from `reference`, summed over a response's tokens.

    Rows have `KL` (exact: over the whole vocabulary at each position) and `Sinkhorn` (the Sinkhorn
    divergence of the tokens' embeddings, with the regulariser's own defaults). Both policies are
    tempered; at temperature 0, where a policy is a single token, they are compared at 1.

    Args:
        names: of the divergences to measure.
        epsilon: of the Sinkhorn divergence; None: its default.
    """
    temperature = policy.temperature or 1.0
    other = policy.load(reference, "reference-model")
    model = policy.load(policy.path, policy.flag)
    for loaded in (model, other):
        check_output_layer(loaded)
    frozen = Reference(PolicyModel(other, temperature), policy.device)
    embeddings = other.get_input_embeddings().weight.detach()
    regularizers: dict[str, PolicyRegularizer] = {
        "KL": KLDivergence("exact"),
        "Sinkhorn": SinkhornDivergence(embeddings, epsilon=epsilon),
    }
    scorers = {name: PenaltyScorer(regularizers[name], [frozen], temperature) for name in names}
    actor = PolicyModel(model, temperature).eval()

    def batch(indices: list[int]) -> list[dict[str, Any]]:
        rollout = _rollout(policy, [prompts[i] for i in indices], [responses[i] for i in indices])
        sums = {}
        for name, scorer in scorers.items():
            (scores,), _, _ = scorer(actor, [rollout])
            assert scores.divergence is not None
            sums[name] = sum_over_response(scores.divergence, rollout.response_mask)
        return [
            {"index": i, **{name: values[row] for name, values in sums.items()}}
            for row, i in enumerate(indices)
        ]

    yield batch


def _rollout(
    policy: Policy, prompts: list[PromptExample], responses: list[dict[str, Any]]
) -> Rollout:
    return make_rollout(
        [prompt.ids for prompt in prompts],
        [row["response_ids"] for row in responses],
        [prompt.text for prompt in prompts],
        [row["response"] for row in responses],
        [{} for _ in prompts],
        ends_of(policy.tokenizer),
        policy.tokenizer.pad_token_id,
        policy.device,
        keep_empty=True,
    )


def sum_over_response(values: Tensor, mask: Tensor) -> list[float]:
    """[n] values at the True positions of mask [B, T], in row order -> B sums."""
    full = torch.zeros(mask.shape, dtype=torch.float64, device=values.device)
    full[mask] = values.double()
    return full.sum(dim=1).tolist()
