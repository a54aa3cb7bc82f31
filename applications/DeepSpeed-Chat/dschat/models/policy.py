"""A causal LM as a policy over response tokens, and a sequence classifier as a critic.

Shapes: B sequences, P prompt columns (left-padded), T response columns (right-padded), n active
positions, i.e. those that predict a response token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dschat.errors import UserError
from dschat.models.dropout import probe_tokens
from dschat.models.key_values import (
    PromptPlan,
    has_plain_cache,
    plan_prompts,
    recomputes,
    response_states,
)
from dschat.models.output_layer import OutputLayer
from dschat.models.response_logprobs import (
    response_and_candidate_logprobs,
    response_logprobs,
    response_logprobs_and_entropy,
)

PADDING_ERROR, PADDING_ERROR_16_BITS = 1e-3, 5e-2
"""What padding may change of a text's logits, relative to the largest: the rounding of sums in
another order."""


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids that count from each row's first real token, [B, L] int64."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def predicting_positions(hidden: Tensor, response_length: int) -> Tensor:
    """[B, P + T, H] -> [B, T, H]: the state before each response token."""
    return hidden[:, -response_length - 1 : -1]


def backbone(model: Any) -> nn.Module:
    """The model without its head, for plain and for LoRA models."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = getattr(plain, plain.base_model_prefix, None)
    if inner is None or inner is plain:
        raise UserError(
            f"{type(plain).__name__} has no body under '{plain.base_model_prefix}'; expected a "
            "model with a language-model or classification head."
        )
    return inner


def _last_hidden(body: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    output = body(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=False,
    )
    return output.last_hidden_state


class PolicyModel(nn.Module):
    """Hidden states or log-probabilities of the response tokens of a batch.

    Attributes:
        model: the plain `AutoModelForCausalLM` (what is saved).
        output_layer: its head (see `OutputLayer`).
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.plain_cache = has_plain_cache(model)
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        # A plain attribute, not a second registration of the same parameters.
        object.__setattr__(self, "output_layer", OutputLayer.of(plain))

    output_layer: OutputLayer

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt that several rows have in common goes through the model once."""
        return self.plain_cache and not recomputes(backbone(self.model))

    def plan(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> PromptPlan:
        """How this micro-batch goes through the model; see `plan_prompts`."""
        if not self.shares_prompts:
            return PromptPlan()
        body, length = backbone(self.model), response_mask.shape[1]
        return plan_prompts(body, input_ids, attention_mask, length)

    def limit_vocabulary(self, size: int) -> None:
        """Take the first `size` tokens only as possible, from now on."""
        object.__setattr__(self, "output_layer", replace(self.output_layer, width=size))

    def share_with_zero3(self) -> None:
        """Tell ZeRO 3 that this module's forward and backward use the head's weights directly."""
        import deepspeed

        for parameter in self.output_layer.parameters():
            deepspeed.zero.register_external_parameter(self, parameter)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        hidden_only: bool = False,
        temperature: float | None = None,
        entropy: bool = False,
        plan: PromptPlan | None = None,
        candidates: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Log-probabilities [n] of the active response tokens in row order, differentiable.

        Args:
            input_ids: [B, P + T]. attention_mask: [B, P + T]. response_mask: [B, T] bool.
            hidden_only: return the states [n, H] that predict those tokens instead.
            temperature: another one than that of sampling.
            entropy: return the log-probabilities and, [n] as well, the entropy in nats of the
                distributions that those tokens were drawn from.
            plan: another model's, so that equal weights give equal bits; None: its own.
            candidates: [n, k] tokens whose log-probabilities [n, k] are returned last.
        """
        length = response_mask.shape[1]
        if plan is None:
            plan = self.plan(input_ids, attention_mask, response_mask)
        active = self._states(input_ids, attention_mask, length, plan)[response_mask]
        if hidden_only:
            return active
        actions = input_ids[:, -length:][response_mask]
        temperature = self.temperature if temperature is None else temperature
        if candidates is not None:
            return response_and_candidate_logprobs(
                active, self.output_layer, actions, candidates, temperature, entropy
            )
        if entropy:
            return response_logprobs_and_entropy(active, self.output_layer, actions, temperature)
        return response_logprobs(active, self.output_layer, actions, temperature)

    def _states(
        self, input_ids: Tensor, attention_mask: Tensor, response_length: int, plan: PromptPlan
    ) -> Tensor:
        """[B, T, H]: the state before each response token; a shared prompt's are computed once."""
        body = backbone(self.model)
        if plan.shared is None or not self.shares_prompts:
            hidden = _last_hidden(body, input_ids, attention_mask)
            return predicting_positions(hidden, response_length)
        places = positions(attention_mask)
        return response_states(
            body,
            input_ids,
            attention_mask,
            places,
            response_length,
            *plan.shared,
            plan.second_pass,
        )


class ValueModel(nn.Module):
    """A reward model's score at every response position: the critic."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not isinstance(getattr(plain, "score", None), nn.Module):
            raise UserError(
                f"{type(plain).__name__} scores no single positions; expected a causal model with "
                "a linear 'score' head, as step 2 makes."
            )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor | None = None,
    ) -> Tensor:
        """Values [B, T] float32 of the states before each response token (0 where masked).

        Without a response mask the last hidden states [B, L, H] of whole rows instead.
        """
        plain = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        hidden = _last_hidden(backbone(self.model), input_ids, attention_mask)
        if response_mask is None:
            return hidden
        states = predicting_positions(hidden, response_mask.shape[1])
        values = plain.score(states).squeeze(-1).float()
        return torch.where(response_mask, values, torch.zeros_like(values))


def check_output_layer(model: Any) -> None:
    """Refuse an architecture that is not computed here as it computes itself.

    Two rows go through the body, whole and left-padded; the plain model sees the whole one.

    Raises:
        UserError: its logits are not what `OutputLayer` makes of its last hidden state, padding
            changes what it says about a text, or it does not take what it is given here.
    """
    name, count, padding = type(model).__name__, 5, 2
    ids = probe_tokens(model, count)
    rows, mask = torch.cat([ids, ids.roll(padding, dims=1)]), torch.ones_like(ids).repeat(2, 1)
    mask[1, :padding] = 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            plain = model(input_ids=ids, attention_mask=mask[:1], use_cache=False).logits[0].float()
            hidden = _last_hidden(backbone(model), rows, mask)
            whole, padded = OutputLayer.of(model).logits(hidden).float()
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{name} cannot be used: a pass over two tokenised rows, one of them padded, fails "
            f"({' '.join(str(error).split())[:200]}). Expected a causal language model whose body "
            "takes input_ids, attention_mask and position_ids."
        ) from error
    finally:
        model.train(was_training)
    size = plain.abs().max().clamp(min=1.0)
    off = float((whole - plain).abs().max() / size)
    if not off <= 1e-2:
        raise UserError(
            f"{name} does more than a linear layer after its last hidden state, or counts "
            f"positions otherwise (logits differ by {off:.3g} of the largest); this architecture "
            "is not supported."
        )
    off = float((padded[padding:] - plain[:-padding]).abs().max() / size)
    if not off <= (PADDING_ERROR if model.dtype == torch.float32 else PADDING_ERROR_16_BITS):
        raise UserError(
            f"{name} ignores the attention mask, or looks at later tokens: with padding before it "
            f"and less text behind it a text gets other logits (they differ by {off:.3g} of the "
            "largest). Batches of several lengths would be wrong; this architecture is not "
            "supported."
        )
