"""From hidden states to log-probabilities, a chunk of positions at a time.

A tensor of batch x length x vocabulary is the largest thing in an RLHF step by far (8 sequences of
256 tokens over 256,000 tokens are 2 GB in float32, and softmax, gradient and reference each need
another). Nothing here ever holds more than one chunk of it, in the forward or the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dschat.errors import UserError

# Elements of one chunk of logits. A regulariser needs some eight such tensors at a time. On CPU
# 36 MiB each: glibc gives back at once what is larger than 32 MiB, and keeps smaller blocks in a
# heap that fragments (measured: 968 MB instead of 300). A GPU has the memory for more, and needs
# the rows: every chunk reads the whole output layer once.
CHUNK_ELEMENTS = 9 * 2**20
GPU_CHUNK_ELEMENTS = 2**24


def chunk_rows(vocabulary_size: int, device: torch.device) -> int:
    """How many positions one chunk of logits has: a constant number of bytes, at least 1 row."""
    elements = GPU_CHUNK_ELEMENTS if device.type == "cuda" else CHUNK_ELEMENTS
    return max(1, elements // vocabulary_size)


@dataclass(frozen=True)
class OutputLayer:
    """What a causal LM does after its last hidden state.

    logits = cap * tanh(scale * (hidden W^T + b) / cap), where scale and cap are the few
    architectures' extras (Cohere and Granite scale, Gemma 2 caps), and 1 and none elsewhere.
    `width` cuts the logits to the first so many tokens, for models that share a vocabulary but not
    its padding; None takes all rows of W.
    """

    linear: torch.nn.Module
    scale: float = 1.0
    softcap: float | None = None
    width: int | None = None

    @classmethod
    def of(cls, model: Any) -> OutputLayer:
        """The output layer of an `AutoModelForCausalLM`, with its architecture's extras."""
        linear = model.get_output_embeddings()
        if linear is None or not hasattr(linear, "weight"):
            raise UserError(
                f"{type(model).__name__} has no linear output layer; expected a causal language "
                "model such as Llama, Gemma, Qwen or GPT-2."
            )
        config = model.config
        scale = getattr(config, "logit_scale", None)  # Cohere
        if scale is None:
            scale = 1.0 / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        return cls(linear, float(scale), getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] hidden states -> [n, V] logits in the model's dtype."""
        weight, bias = self.weights()
        logits = F.linear(hidden, weight, bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """W [V, H] and the bias [V], cut to `width`."""
        weight: Any = self.linear.weight
        bias: Any = getattr(self.linear, "bias", None)
        if self.width is None:
            return weight, bias
        return weight[: self.width], None if bias is None else bias[: self.width]

    @property
    def vocabulary_size(self) -> int:
        """Tokens with a logit, V; also where ZeRO 3 has partitioned the layer."""
        weight: Any = self.linear.weight
        rows = int(getattr(weight, "ds_shape", weight.shape)[0])
        return rows if self.width is None else min(rows, self.width)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Weight and, where there is one, bias."""
        found = [self.linear.weight, getattr(self.linear, "bias", None)]
        return [p for p in found if isinstance(p, torch.nn.Parameter)]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Whole weights inside, also where ZeRO 3 has partitioned them. Collective under ZeRO 3.

        Where they are whole already, as inside another such block, nothing is done.
        """
        partitioned: list[Any] = [p for p in self.parameters() if hasattr(p, "ds_id")]
        if not partitioned:
            yield
            return
        import deepspeed
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        if all(p.ds_status == ZeroParamStatus.AVAILABLE for p in partitioned):
            yield
            return
        with deepspeed.zero.GatheredParameters(partitioned):
            yield


def chunk_logprobs(logits: Tensor, actions: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tempered log-probabilities of the actions and the tempered logits, in float32 or better.

    Args:
        logits: [n, V] as the model gives them. actions: [n] int64. temperature: > 0.

    Returns:
        ([n] log softmax(logits / temperature) at the actions, [n, V] logits / temperature)
    """
    tempered = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    picked = tempered.gather(1, actions.unsqueeze(1)).squeeze(1)
    return picked - tempered.logsumexp(dim=1), tempered


class _ResponseLogProbs(torch.autograd.Function):
    """log pi(action) from hidden states; the backward pass makes each chunk's logits again."""

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
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, actions)
        ctx.temperature, ctx.layer, ctx.rows = temperature, layer, rows
        parts = [
            chunk_logprobs(layer.logits(h), a, temperature)[0]
            for h, a in zip(hidden.split(rows), actions.split(rows), strict=True)
        ]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
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
            _, tempered = chunk_logprobs(logits, actions[part], ctx.temperature)
            # d log pi(a) / d tempered logits = onehot(a) - softmax
            g = grad[part].unsqueeze(1)
            d_logits = tempered.softmax(dim=1).mul_(-g)
            d_logits.scatter_add_(1, actions[part].unsqueeze(1), g)
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
        )


def response_logprobs(
    hidden: Tensor, layer: OutputLayer, actions: Tensor, temperature: float, rows: int | None = None
) -> Tensor:
    """[n, H] hidden states and [n] actions -> [n] float32 log-probabilities, differentiable.

    The same chunks as in scoring give the same bits, so that PPO's ratios start at exactly 1.

    Args:
        rows: positions in a chunk; None takes `chunk_rows`.
    """
    if rows is None:
        rows = chunk_rows(layer.vocabulary_size, hidden.device)
    weight, bias = layer.weights()
    return _ResponseLogProbs.apply(hidden, weight, bias, actions, temperature, layer, rows)
