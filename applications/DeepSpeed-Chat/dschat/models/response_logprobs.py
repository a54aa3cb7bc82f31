"""Log-probabilities and entropies of response tokens, differentiable without whole logits.

The backward pass makes each chunk's logits again from the hidden states, once for both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dschat.models.output_layer import (
    OutputLayer,
    chunk_entropy,
    chunk_logprobs,
    chunk_rows,
    temper_,
)


class _ResponseLogProbs(torch.autograd.Function):
    """log pi(action) and, if wanted, the entropy of pi or log pi of candidates, from hidden states.

    Outputs are log pi(action) [n]; with the entropy, [n] too; with candidates [n, k], theirs.
    """

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
        candidates: Tensor | None,
    ) -> Any:
        logprobs, normalizers, entropies, others = [], [], [], []
        for i, (h, a) in enumerate(zip(hidden.split(rows), actions.split(rows), strict=True)):
            tempered = temper_(layer.logits(h), temperature)
            logprob, log_normalizer = chunk_logprobs(tempered, a)
            logprobs.append(logprob)
            normalizers.append(log_normalizer)
            if with_entropy:
                entropies.append(chunk_entropy(tempered, log_normalizer))
            if candidates is not None:
                chosen = candidates[i * rows : (i + 1) * rows].long()
                others.append(tempered.gather(1, chosen) - log_normalizer.unsqueeze(1))
        ctx.save_for_backward(hidden, weight, bias, actions, torch.cat(normalizers), candidates)
        ctx.temperature, ctx.layer, ctx.rows = temperature, layer, rows
        ctx.with_entropy = with_entropy
        found = [torch.cat(part) for part in (logprobs, entropies, others) if part]
        return found[0] if len(found) == 1 else tuple(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *more: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        hidden, weight, bias, actions, log_normalizer, candidates = ctx.saved_tensors
        grad_entropy = more[0] if ctx.with_entropy else None
        layer, rows, width = ctx.layer, ctx.rows, ctx.layer.vocabulary_size
        grad_hidden = torch.empty_like(hidden)
        # Many chunks add up here: in float32 also where the weights are not. A frozen layer (LoRA)
        # is spared a tensor of its own size.
        grad_weight = grad_bias = None
        # Rows beyond the tokens get zeros in place: cutting the weight itself would cost a copy of
        # its gradient. Without positions there is a gradient too: ZeRO's ranks reduce the same.
        if len(hidden) == 0 or width < len(weight):
            if ctx.needs_input_grad[1]:
                grad_weight = torch.zeros_like(weight, dtype=grad.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = torch.zeros_like(bias, dtype=grad.dtype)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            of_entropy = None if grad_entropy is None else grad_entropy[part]
            d_logits = _d_logits(
                layer.logits(hidden[part]),
                layer,
                actions[part],
                log_normalizer[part],
                ctx.temperature,
                grad[part],
                of_entropy,
                None if candidates is None else (candidates[part].long(), more[-1][part]),
            )
            d_model = d_logits.to(hidden.dtype)
            grad_hidden[part] = d_model @ weight[:width]
            if ctx.needs_input_grad[1]:
                grad_weight = _add_product(grad_weight, d_model, hidden[part], grad.dtype)
            if ctx.needs_input_grad[2]:
                of_bias = d_logits.sum(dim=0)
                if grad_bias is None:
                    grad_bias = of_bias
                else:
                    grad_bias[:width].add_(of_bias)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *(None for _ in range(6)),
        )


def _add_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """total + left^T right in `dtype`, in the place of `total`; None is 0.

    Args:
        total: may have more rows than the product; those stay as they are.
    """
    if total is None:
        return (left.t() @ right).to(dtype)
    rows = total[: left.shape[1]]
    if left.dtype == dtype:
        rows.addmm_(left.t(), right)
    else:
        rows.add_((left.t() @ right).to(dtype))
    return total


def _d_logits(
    logits: Tensor,
    layer: OutputLayer,
    actions: Tensor,
    log_normalizer: Tensor,
    temperature: float,
    grad: Tensor,
    grad_entropy: Tensor | None,
    of_candidates: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """[n, V] gradient with respect to the products of one chunk, before scale and softcap.

    d log pi(a) / d tempered logits = onehot(a) - p, and d H / d tempered logits = -p (log p + H).

    Args:
        logits: [n, V]; their memory is used for the result where it can be.
        log_normalizer: [n], of the tempered logits, from the forward pass.
        grad, grad_entropy: [n] gradients with respect to log pi(a) and H; None: H is not used.
        of_candidates: [n, k] tokens, and the gradients with respect to their log pi.
    """
    slope = None
    if layer.softcap is not None:
        slope = 1 - (logits.to(grad.dtype) / layer.softcap) ** 2
    factor = layer.scale / temperature
    g = (grad * factor).unsqueeze(1)
    every = g  # gradients of log-probabilities, summed: each takes p times itself off all logits
    if of_candidates is not None:
        tokens, slopes = of_candidates[0], of_candidates[1] * factor
        every = g + slopes.sum(dim=1, keepdim=True)
    log_p = temper_(logits, temperature).sub_(log_normalizer.unsqueeze(1))
    if grad_entropy is None:
        d_logits = log_p.exp_().mul_(-every)
    else:
        h = (grad_entropy * factor).unsqueeze(1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(dim=1, keepdim=True)
        d_logits = log_p.add_(entropy).mul_(-h).sub_(every).mul_(p)
    d_logits.scatter_add_(1, actions.unsqueeze(1), g)
    if of_candidates is not None:
        d_logits.scatter_add_(1, tokens, slopes)
    return d_logits if slope is None else d_logits.mul_(slope)


def _apply(
    hidden: Tensor,
    layer: OutputLayer,
    actions: Tensor,
    temperature: float,
    rows: int | None,
    with_entropy: bool,
    candidates: Tensor | None = None,
) -> Any:
    if rows is None:
        rows = chunk_rows(layer.vocabulary_size, hidden.device)
    linear: Any = layer.linear
    return _ResponseLogProbs.apply(
        hidden,
        linear.weight,
        getattr(linear, "bias", None),
        actions,
        temperature,
        layer,
        rows,
        with_entropy,
        candidates,
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


def response_and_candidate_logprobs(
    hidden: Tensor,
    layer: OutputLayer,
    actions: Tensor,
    candidates: Tensor,
    temperature: float,
    entropy: bool = False,
    rows: int | None = None,
) -> tuple[Tensor, ...]:
    """`response_logprobs`, to the bit, and those of k candidates a position, differentiable.

    Args:
        candidates: [n, k] token ids of any integer dtype, different ones in each row.
        entropy: the entropies [n] as well.

    Returns:
        [n], with the entropy [n], and [n, k] float32.
    """
    found: tuple[Tensor, ...] = _apply(
        hidden, layer, actions, temperature, rows, with_entropy=entropy, candidates=candidates
    )
    return found
