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

from dschat.data.ends import Ends, decode_responses, ends_of
from dschat.data.prompts import PromptExample, collate_prompts
from dschat.models.policy import PolicyModel
from dschat.models.references import FrozenPolicy
from dschat.rollout.generation import generate
from dschat.rollout.reference_samples import SEED_OF_SAMPLES, uniform_numbers_of_samples
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import read_jsonl, write_jsonl


def draw_reference_samples(
    prompts: Sequence[PromptExample],
    references: Sequence[FrozenPolicy],
    weights: Sequence[float],
    per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    tokenizer: Any,
    device: torch.device,
    folder: Path,
) -> list[PromptExample]:
    """The prompts with `samples` from the mixture of the references over whole responses.

    For each sample a reference k is picked with probability w_k, then the response is drawn from
    it (Aminian et al., arXiv 2502.01203). They are kept in `folder` under a name made from
    everything they depend on, and read from there the next time. One reference at a time is asked.

    Args:
        weights: of the references, with sum 1. per_prompt: samples of each prompt.
        batch_size: responses per rank at a time.
        folder: of prepared data; gets reference_samples-*.jsonl, one prompt a line.
    """
    key = {
        "references": [_fingerprint(r) for r in references],
        "weights": list(weights),
        "settings": [per_prompt, max_new_tokens, temperature, seed, *ends_of(tokenizer).ids],
        "prompts": [p.ids for p in prompts],
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = folder / f"reference_samples-{digest}.jsonl"
    rows = distributed.broadcast_object(
        read_jsonl(path) if distributed.is_main() and path.exists() else None
    )
    if rows is None:
        picked = pick_references(len(prompts) * per_prompt, weights, seed)
        responses = _draw(
            prompts,
            references,
            picked.reshape(len(prompts), per_prompt),
            max_new_tokens,
            temperature,
            seed,
            batch_size,
            tokenizer,
            device,
        )
        rows = [
            {
                "prompt": prompt.text,
                "references": picked[i * per_prompt : (i + 1) * per_prompt].tolist(),
                "responses": decode_responses(tokenizer, responses[i]),
                "response_ids": responses[i],
            }
            for i, prompt in enumerate(prompts)
        ]
        with on_all_ranks():
            if distributed.is_main():
                write_jsonl(path, rows)
    _report(rows, path, ends_of(tokenizer))
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
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    tokenizer: Any,
    device: torch.device,
) -> list[list[list[int]]]:
    """Response ids by prompt and sample, from the references `picked` [prompts, samples]."""
    from tqdm import tqdm

    rank, world = distributed.rank(), distributed.world_size()
    mine: dict[tuple[int, int], list[int]] = {}
    bar = tqdm(
        total=-(-picked.size // world),
        disable=not distributed.is_main(),
        desc="reference samples",
        mininterval=0.5,
    )
    for k, reference in enumerate(references):
        places = [(int(i), int(m)) for i, m in np.argwhere(picked == k)][rank::world]
        # Prompts of like length together: less padding.
        places.sort(key=lambda place: len(prompts[place[0]].ids))
        with reference.on_device() as policy:
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                # A response's own row: it does not depend on batches or ranks.
                rows = [_row(i, m) for i, m in batch]
                numbers = uniform_numbers_of_samples(max_new_tokens, seed, rows)
                ids, attention = collate_prompts(
                    [prompts[i] for i, _ in batch], tokenizer.pad_token_id
                )
                responses = generate(
                    policy.model,
                    ids.to(device),
                    attention.to(device),
                    numbers,
                    max_new_tokens,
                    temperature,
                    ends_of(tokenizer).ids,
                    tokenizer.pad_token_id,
                    vocabulary_size=policy.output_layer.vocabulary_size,
                )
                mine.update(zip(batch, responses, strict=True))
                bar.update(len(batch))
    bar.close()
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


def _report(rows: list[dict[str, Any]], path: Path, ends: Ends) -> None:
    """Say what was drawn."""
    by_reference: dict[int, list[list[int]]] = {}
    for row in rows:
        for k, ids in zip(row["references"], row["response_ids"], strict=True):
            by_reference.setdefault(k, []).append(ids)
    parts = [
        f"{len(drawn)} of reference {k} (length {sum(map(len, drawn)) / len(drawn):.1f}, "
        f"{sum(map(ends.close, drawn)) / len(drawn):.0%} ended)"
        for k, drawn in sorted(by_reference.items())
    ]
    distributed.log_main(f"reference samples: {', '.join(parts)}, in {path}")
