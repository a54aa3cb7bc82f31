"""Log-probabilities and entropies of response tokens, differentiable without whole logits.

The backward pass makes each chunk's logits again from the hidden states, once for both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dschat.models.output_layer import (
    OutputLayer,
    chunk_logprobs,
    chunk_logprobs_and_entropy,
    chunk_rows,
)


class _ResponseLogProbs(torch.autograd.Function):
    """log pi(action) and, if wanted, the entropy of pi from hidden states."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        actions: Tensor,
        temperature: float,
        layer: OutputLayer,
        rows: int,
        with_entropy: bool,
    ) -> Any:
        ctx.save_for_backward(hidden, weight, bias, actions)
        ctx.temperature, ctx.layer, ctx.rows = temperature, layer, rows
        chunks = list(zip(hidden.split(rows), actions.split(rows), strict=True))
        if not with_entropy:
            parts = [chunk_logprobs(layer.logits(h), a, temperature)[0] for h, a in chunks]
            return torch.cat(parts)
        pairs = [chunk_logprobs_and_entropy(layer.logits(h), a, temperature) for h, a in chunks]
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor, grad_entropy: Tensor | None = None
    ) -> tuple[Any, ...]:
        hidden, weight, bias, actions = ctx.saved_tensors
        layer, rows = ctx.layer, ctx.rows
        grad_hidden = torch.empty_like(hidden)
        # Many chunks add up here: in float32 also where the weights are not. A frozen layer (LoRA)
        # is spared a tensor of its own size.
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=grad.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = torch.zeros_like(bias, dtype=grad.dtype)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = layer.logits(hidden[part])
            of_entropy = None if grad_entropy is None else grad_entropy[part]
            d_logits = _d_tempered(logits, actions[part], ctx.temperature, grad[part], of_entropy)
            d_logits.mul_(layer.scale / ctx.temperature)
            if layer.softcap is not None:
                d_logits.mul_(1 - (logits.to(grad.dtype) / layer.softcap) ** 2)
            d_model = d_logits.to(hidden.dtype)
            grad_hidden[part] = d_model @ weight
            if grad_weight is not None:
                grad_weight += (d_model.t() @ hidden[part]).to(grad.dtype)
            if grad_bias is not None:
                grad_bias += d_logits.sum(dim=0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _d_tempered(
    logits: Tensor,
    actions: Tensor,
    temperature: float,
    grad: Tensor,
    grad_entropy: Tensor | None,
) -> Tensor:
    """[n, V] gradient with respect to the tempered logits of one chunk.

    d log pi(a) / d tempered logits = onehot(a) - p, and d H / d tempered logits = -p (log p + H).

    Args:
        grad, grad_entropy: [n] gradients with respect to log pi(a) and H; None: H is not used.
    """
    _, tempered = chunk_logprobs(logits, actions, temperature)
    g = grad.unsqueeze(1)
    if grad_entropy is None:
        d_tempered = tempered.softmax(dim=1).mul_(-g)
    else:
        h = grad_entropy.unsqueeze(1)
        log_p = tempered.sub_(tempered.logsumexp(dim=1, keepdim=True))
        p = log_p.exp()
        entropy = -(p * log_p).sum(dim=1, keepdim=True)
        d_tempered = log_p.add_(entropy).mul_(-h).sub_(g).mul_(p)
    return d_tempered.scatter_add_(1, actions.unsqueeze(1), g)


def _apply(
    hidden: Tensor,
    layer: OutputLayer,
    actions: Tensor,
    temperature: float,
    rows: int | None,
    with_entropy: bool,
) -> Any:
    if rows is None:
        rows = chunk_rows(layer.vocabulary_size, hidden.device)
    weight, bias = layer.weights()
    return _ResponseLogProbs.apply(
        hidden, weight, bias, actions, temperature, layer, rows, with_entropy
    )


def response_logprobs(
    hidden: Tensor, layer: OutputLayer, actions: Tensor, temperature: float, rows: int | None = None
) -> Tensor:
    """[n, H] hidden states and [n] actions -> [n] float32 log-probabilities, differentiable.

    The same chunks as in scoring give the same bits, so that PPO's ratios start at exactly 1.

    Args:
        rows: positions in a chunk; None takes `chunk_rows`.
    """
    return _apply(hidden, layer, actions, temperature, rows, with_entropy=False)


def response_logprobs_and_entropy(
    hidden: Tensor, layer: OutputLayer, actions: Tensor, temperature: float, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """`response_logprobs`, to the bit, and the entropy in nats at each position, differentiable.

    The entropy is that of the whole tempered distribution, [n] float32; both come from one product
    with the output layer per chunk, in either direction.
    """
    return _apply(hidden, layer, actions, temperature, rows, with_entropy=True)
