"""Values of an iteration's experience that are not finite, and its rows as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dschat.rollout.experience import Experience, Rollout
from dschat.runtime import distributed
from dschat.runtime.faults import Fault


def find_fault(experiences: Sequence[Experience], reward_name: str) -> Fault | None:
    """The first quantity of this rank's experience that is not finite where it counts."""
    per_token = {
        "the policy's log-probability": "logprobs",
        "the reference's log-probability": "reference_logprobs",
        "the token penalty": "token_penalty",
        "the divergence": "divergence",
        "the critic's value": "values",
        "the advantage": "advantages",
        "the return": "returns",
    }
    told = "the sampling engine's log-probability"
    rows = [
        (told, lambda e: _bad_rows(e, e.rollout.behaviour_logprobs)),
        (f"a reward of {reward_name}", lambda e: ~e.scores.isfinite() & ~e.rollout.dropped),
        *(
            (words, lambda e, name=name: _bad_rows(e, getattr(e, name)))
            for words, name in per_token.items()
        ),
    ]
    for order, (words, bad) in enumerate(rows):
        prompts = [
            prompt
            for e in experiences
            for prompt, is_bad in zip(e.rollout.prompts, bad(e).tolist(), strict=True)
            if is_bad
        ]
        if prompts:
            return Fault(f"{words} is not finite", distributed.rank(), tuple(prompts), order)
    return None


def _bad_rows(experience: Experience, values: Tensor | None) -> Tensor:
    """[B] bool: a response with a token that counts and whose value is not finite."""
    mask = experience.rollout.response_mask
    return (~values.isfinite() & mask).any(dim=1) if values is not None else mask[:, 0] & False


def plain_rows(batch: Sequence[Experience | Rollout]) -> list[dict[str, Any]]:
    """Micro-batches as plain values, one row a response; NaN and infinities as text."""
    return [row for part in batch for row in _rows(part)]


def _rows(batch: Experience | Rollout) -> list[dict[str, Any]]:
    experience = batch if isinstance(batch, Experience) else None
    rollout = batch.rollout if isinstance(batch, Experience) else batch
    rows = []
    for i, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        mask = rollout.response_mask[i]
        row: dict[str, Any] = {
            "prompt": prompt,
            "response": response,
            "response_ids": rollout.actions[i][mask].tolist(),
        }
        if experience is not None:
            row["reward"] = _plain(experience.scores[i])
        for name in ("logprobs", "reference_logprobs", "token_penalty", "values", "advantages"):
            values = getattr(experience, name, None)
            if values is not None:
                row[name] = [_plain(value) for value in values[i][mask]]
        if rollout.behaviour_logprobs is not None:
            told = rollout.behaviour_logprobs[i][mask]
            row["behaviour_logprobs"] = [_plain(value) for value in told]
        rows.append(row)
    return rows


def _plain(value: Tensor) -> float | str:
    number = float(value)
    return number if value.isfinite() else str(number)
