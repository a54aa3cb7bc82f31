"""What a rollout keeps for training: token ids and one number per token, no logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dschat.data.ends import EndIds, Ends
from dschat.data.ends import ended as has_ended


@dataclass(frozen=True)
class Rollout:
    """Sampled sequences of one micro-batch on one rank.

    B sequences, P prompt columns (left-padded), T response columns (right-padded).

    Attributes:
        input_ids: [B, P + T] int64. attention_mask: [B, P + T] int64, 1 on real tokens.
        response_mask: [B, T] bool, True on response tokens up to and including the end token;
            a response with no token before the end token is all False (dropped).
        ended: [B] bool, the response stopped by itself and not at the length limit.
        dropped: [B] bool, the response has no token of its own.
        examples: per sequence what a reward function gets besides the texts.
        prompts, responses: the texts.
        indices: [B] int64, each response's index among all ranks' responses of the iteration;
            responses to one prompt have consecutive indices.
        states: [n, H] the policy's states before the n active tokens, where sampling kept them.
        behaviour_logprobs: [B, T] float32, log mu of the tokens where another engine drew them
            from a distribution mu of its own; None where the policy did.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    ended: Tensor
    dropped: Tensor
    prompts: list[str]
    responses: list[str]
    examples: list[dict[str, Any]]
    indices: Tensor
    states: Tensor | None = None
    behaviour_logprobs: Tensor | None = None

    @property
    def actions(self) -> Tensor:
        """[B, T] the response columns of `input_ids`."""
        return self.input_ids[:, -self.response_mask.shape[1] :]

    def model_inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `PolicyModel` and `ValueModel` take."""
        return self.input_ids, self.attention_mask, self.response_mask


@dataclass(frozen=True)
class Experience:
    """A rollout with its scores, ready for updates. All per-token tensors are [B, T] float32.

    Attributes:
        rollout: the sequences.
        logprobs: log pi_old of the sampled tokens (at the sampling temperature).
        reference_logprobs: the same under the (first) reference; None without one.
        values: the critic's before the update; None without a critic.
        token_penalty: phi_t(a_t), 0 without a penalty. divergence: D_t; None without a reference.
            Both 0 where masked.
        scores: [B] what the reward function said.
        advantages, returns: filled in before the update (returns with a critic only).
        samples: responses of the references to prompts of this micro-batch, to be learnt from.
        sample_weights: [rows of samples] float32, filled in before the update.
        sample_control: what the samples' control variate takes off the advantages; None once done.
        entropy: of the distributions that the sampled tokens were drawn from, in nats; 0 where
            masked.
        candidates: [B, T, k] int32 tokens that the loss looks at again, or None.
        candidate_logprobs: [B, T, k] under the reference.
    """

    rollout: Rollout
    logprobs: Tensor
    reference_logprobs: Tensor | None
    values: Tensor | None
    token_penalty: Tensor
    divergence: Tensor | None
    scores: Tensor
    advantages: Tensor | None = None
    returns: Tensor | None = None
    samples: Rollout | None = None
    sample_weights: Tensor | None = None
    sample_control: Tensor | None = None
    entropy: Tensor | None = None
    candidates: Tensor | None = None
    candidate_logprobs: Tensor | None = None


def make_rollout(
    prompt_ids: list[list[int]],
    response_ids: list[list[int]],
    prompts: list[str],
    responses: list[str],
    examples: list[dict[str, Any]],
    ends: EndIds | Ends,
    pad_token_id: int,
    device: torch.device,
    indices: list[int] | None = None,
    keep_empty: bool = False,
    states: Sequence[Tensor] | None = None,
    behaviour: Sequence[Sequence[float]] | None = None,
) -> Rollout:
    """Pad one micro-batch to its own longest prompt and response.

    Args:
        prompt_ids, response_ids: without padding; a response that ended by itself ends with
            one of `ends`, or with the token that completes a stop text.
        indices: see `Rollout`; None counts the rows.
        keep_empty: a response that is the end token alone is a response of one token. Else it is
            dropped, as in DeepSpeed-Chat.
        states: per response [length, H], see `SampledStates`.
        behaviour: per response log mu of its tokens, see `GenerationBackend.logprobs`.
    """
    batch = len(prompt_ids)
    width_prompt = max(len(p) for p in prompt_ids)
    width_response = max(1, *(len(r) for r in response_ids))
    ids = torch.full((batch, width_prompt + width_response), pad_token_id, dtype=torch.long)
    attention = torch.zeros_like(ids)
    mask = torch.zeros(batch, width_response, dtype=torch.bool)
    ended = torch.zeros(batch, dtype=torch.bool)
    dropped = torch.zeros(batch, dtype=torch.bool)
    told = None if behaviour is None else torch.zeros(batch, width_response)
    for row, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        start, stop = width_prompt - len(prompt), width_prompt + len(response)
        ids[row, start:stop] = torch.tensor(prompt + response)
        attention[row, start:stop] = 1
        ended[row] = has_ended(response, ends)
        dropped[row] = len(response) - int(ended[row]) == 0 and not (keep_empty and response)
        mask[row, : len(response)] = not bool(dropped[row])
        if told is not None and behaviour is not None:
            told[row, : len(response)] = torch.tensor(behaviour[row])
    examples = [
        {**example, "prompt_ids": prompt, "response_ids": response}
        for example, prompt, response in zip(examples, prompt_ids, response_ids, strict=True)
    ]
    kept = None
    if states is not None:
        active = [
            s for s, is_dropped in zip(states, dropped.tolist(), strict=True) if not is_dropped
        ]
        kept = torch.cat(active) if active else states[0][:0]
    return Rollout(
        input_ids=ids.to(device),
        attention_mask=attention.to(device),
        response_mask=mask.to(device),
        ended=ended.to(device),
        dropped=dropped.to(device),
        prompts=prompts,
        responses=responses,
        examples=examples,
        indices=torch.tensor(indices if indices is not None else range(batch)).to(device),
        states=kept,
        behaviour_logprobs=None if told is None else told.to(device),
    )
