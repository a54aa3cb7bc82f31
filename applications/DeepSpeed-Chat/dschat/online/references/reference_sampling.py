"""Responses drawn from the references, once per prompt set, for the forward KL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dschat.data.prompts import PromptExample
from dschat.models.policy import PolicyModel
from dschat.models.references import FrozenPolicy
from dschat.rollout.reference_samples import SEED_OF_SAMPLES, uniform_numbers_of_samples
from dschat.rollout.sampler import Sampler
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import read_jsonl, write_jsonl


def draw_reference_samples(
    prompts: Sequence[PromptExample],
    references: Sequence[FrozenPolicy],
    weights: Sequence[float],
    per_prompt: int,
    sampler: Sampler,
    folder: Path,
) -> list[PromptExample]:
    """The prompts with `samples` from the mixture of the references over whole responses.

    For each sample a reference k is picked with probability w_k, then the response is drawn from
    it (Aminian et al., arXiv 2502.01203). They are kept in `folder` under a name made from
    everything they depend on, and read from there the next time. One reference at a time is asked.

    Args:
        weights: of the references, with sum 1. per_prompt: samples of each prompt.
        sampler: of all the references.
        folder: of prepared data; gets reference_samples-*.jsonl, one prompt a line.
    """
    key = {
        "references": [_fingerprint(r) for r in references],
        "weights": list(weights),
        "settings": [
            per_prompt,
            sampler.settings.max_new_tokens,
            sampler.settings.temperature,
            sampler.seed,
            *sampler.settings.end_ids,
            *(sampler.settings.stops.texts if sampler.settings.stops else ()),
        ],
        "prompts": [p.ids for p in prompts],
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = folder / f"reference_samples-{digest}.jsonl"
    rows = distributed.broadcast_object(
        read_jsonl(path) if distributed.is_main() and path.exists() else None
    )
    if rows is None:
        picked = pick_references(len(prompts) * per_prompt, weights, sampler.seed)
        chosen = picked.reshape(len(prompts), per_prompt)
        responses = _draw(prompts, references, chosen, sampler)
        rows = [
            {
                "prompt": prompt.text,
                "references": picked[i * per_prompt : (i + 1) * per_prompt].tolist(),
                "responses": sampler.decode(responses[i]),
                "response_ids": responses[i],
            }
            for i, prompt in enumerate(prompts)
        ]
        with on_all_ranks():
            if distributed.is_main():
                write_jsonl(path, rows)
    _report(rows, path, sampler)
    return [
        replace(
            prompt,
            samples=tuple(row["response_ids"]),
            sample_rows=tuple(_row(i, m) for m in range(per_prompt)),
        )
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
    ]


def pick_references(count: int, weights: Sequence[float], seed: int) -> np.ndarray:
    """[count] numbers of references, each independent with probabilities `weights`."""
    generator = np.random.default_rng([seed, SEED_OF_SAMPLES])
    return generator.choice(len(weights), size=count, p=np.asarray(weights) / sum(weights))


def _draw(
    prompts: Sequence[PromptExample],
    references: Sequence[FrozenPolicy],
    picked: np.ndarray,
    sampler: Sampler,
) -> list[list[list[int]]]:
    """Response ids by prompt and sample, from the references `picked` [prompts, samples]."""
    rank, world = distributed.rank(), distributed.world_size()
    limit = sampler.settings.max_new_tokens
    mine: dict[tuple[int, int], list[int]] = {}
    for k, reference in enumerate(references):
        chosen = [(int(i), int(m)) for i, m in np.argwhere(picked == k)][rank::world]
        settings = replace(sampler.settings, vocabulary_size=reference.vocabulary_size)
        own = replace(sampler, settings=settings)
        with reference.on_device() as policy:
            if not chosen:
                continue
            # A response has random numbers of its own: it does not depend on batches or ranks.
            numbers = uniform_numbers_of_samples(limit, sampler.seed, [_row(*c) for c in chosen])
            asked = [prompts[i] for i, _ in chosen]
            progress = f"samples of reference {k}"
            mine |= zip(
                chosen, own.sample(policy.model, asked, numbers, progress=progress), strict=True
            )
    found: dict[tuple[int, int], list[int]] = {}
    for share in distributed.gather_objects(mine):
        found.update(share)
    n_prompts, per_prompt = picked.shape
    return [[found[i, m] for m in range(per_prompt)] for i in range(n_prompts)]


def _row(prompt: int, sample: int) -> int:
    """A number of its own for every prompt and sample, below a million samples a prompt."""
    return prompt * 1_000_000 + sample


def _fingerprint(reference: FrozenPolicy) -> str:
    """A digest of the reference's weights: names, shapes and the ends of every parameter."""
    digest = hashlib.sha256()
    with reference.on_device() as policy:
        digest.update(str(policy.output_layer.vocabulary_size).encode())
        for name, parameter in sorted(_parameters(policy)):
            flat = parameter.detach().flatten()
            ends = torch.cat([flat[:256], flat[-256:]]).float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + ends.numpy().tobytes())
    return digest.hexdigest()


def _parameters(policy: PolicyModel) -> list[tuple[str, torch.nn.Parameter]]:
    return list(policy.named_parameters())


def _report(rows: list[dict[str, Any]], path: Path, sampler: Sampler) -> None:
    """Say what was drawn."""
    by_reference: dict[int, list[list[int]]] = {}
    for row in rows:
        for k, ids in zip(row["references"], row["response_ids"], strict=True):
            by_reference.setdefault(k, []).append(ids)
    parts = [
        f"{len(drawn)} of reference {k} (length {sum(map(len, drawn)) / len(drawn):.1f}, "
        f"{sum(map(sampler.ended, drawn)) / len(drawn):.0%} ended)"
        for k, drawn in sorted(by_reference.items())
    ]
    distributed.log_main(f"reference samples: {', '.join(parts)}, in {path}")
