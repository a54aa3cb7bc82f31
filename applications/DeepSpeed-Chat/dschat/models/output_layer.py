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
from dschat.models.zero3 import whole_parameters

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
    `width` cuts the logits to the first `width` tokens, for models that share a vocabulary but not
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
        with whole_parameters(self.parameters()):
            yield


def temper_(logits: Tensor, temperature: float) -> Tensor:
    """[n, V] logits / temperature in float32 or better; takes the place of `logits` where it can.

    A fresh block of a chunk's size costs a CPU more than the division (page faults).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1.0 else wide.div_(temperature)


def chunk_logprobs(tempered: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the actions, and what the logits are normalised by.

    Args:
        tempered: [n, V], see `temper_`. actions: [n] int64.

    Returns:
        ([n] log softmax(tempered) at the actions, [n] logsumexp(tempered))
    """
    picked = tempered.gather(1, actions.unsqueeze(1)).squeeze(1)
    log_normalizer = tempered.logsumexp(dim=1)
    return picked - log_normalizer, log_normalizer


def chunk_entropy(tempered: Tensor, log_normalizer: Tensor) -> Tensor:
    """Entropy in nats of softmax(tempered), [n].

    -sum_v p_v log p_v as it stands: log_normalizer - <p, tempered>, which needs a pass less, is off
    by the rounding of sum_v p_v times the size of the logits (1e-4 nats at 32,000 tokens).

    Args:
        tempered: [n, V] finite. log_normalizer: [n] their logsumexp.
    """
    log_p = tempered - log_normalizer.unsqueeze(1)
    return -log_p.exp().mul_(log_p).sum(dim=1)


def tokens_of(tokenizer: Any) -> int:
    """How many ids the tokenizer has a token for, that is, its largest id and one.

    No text has a token beyond: it is never sampled, whatever its logit, and no probability
    counts it. (Kept with the tokenizer, as making the dictionary takes time.)
    """
    size = len(tokenizer)
    kept = getattr(tokenizer, "_dschat_tokens", (0, 0))
    if kept[0] != size:
        kept = (size, max(tokenizer.get_vocab().values()) + 1)
        tokenizer._dschat_tokens = kept
    return int(kept[1])


def cut_vocabulary(model: Any, width: int) -> Any:
    """The model without the padding rows beyond `width`; also where ZeRO 3 has partitioned it."""
    weight = model.get_input_embeddings().weight
    if getattr(weight, "ds_shape", weight.shape)[0] > width:
        model.resize_token_embeddings(width)
    return model
