"""Dropout set to one value wherever an architecture keeps it, and 0 checked to be 0.

Configs name their probabilities as they like (`resid_pdrop`, `residual_dropout`, `dropout_rate`),
in parts of them too, and modules keep what they were given as `torch.nn.Dropout` or as a number
that their forward reads. With dropout 0 nothing else that is random in training is left either:
PPO's ratios are those of two passes of one model, and any noise between them is taken for a change
of the policy.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dschat.errors import UserError

DROPOUT = re.compile(r"dropout|pdrop")
"""Names of probabilities that single numbers are dropped with."""

NOISE = re.compile(r"layerdrop|layer_drop|drop_path|drop_prob|jitter")
"""Names of what else is random in training: whole layers skipped, noise on a router's inputs."""


def configure_dropout(config: Any, dropout: float | None) -> None:
    """Set every dropout probability of a model config, parts included; None keeps the model's own.

    At 0 layers that are skipped at random and the noise of routers are set to 0 as well; another
    value leaves those as they are.

    Raises:
        UserError: the value is none in [0, 1).
    """
    if dropout is None:
        return
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"Dropout {dropout} is not a probability in [0, 1).")
    for part in _parts(config):
        _set_numbers(part, dropout)


def set_dropout(model: nn.Module, dropout: float | None) -> None:
    """The same for a model that has been made: what its modules keep, named in the config or not.

    At 0 the model is run to see that training mode computes what evaluation mode does, unless ZeRO
    3 has partitioned its weights.

    Raises:
        UserError: it does not.
    """
    if dropout is None:
        return
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = dropout
        _set_numbers(module, dropout)
    if dropout == 0 and not any(hasattr(p, "ds_id") for p in model.parameters()):
        _check_no_noise(model)


def largest_dropout(model: nn.Module) -> float:
    """The largest probability with which a module of the model drops something in training."""
    found = [float(m.p) for m in model.modules() if isinstance(m, _DropoutNd)]
    for module in model.modules():
        names = [n for n in vars(module) if DROPOUT.search(n) or NOISE.search(n)]
        found += [float(value) for _, value in _numbers(module, names)]
    return max(found, default=0.0)


def probe_tokens(model: Any, count: int) -> torch.Tensor:
    """[1, count] token ids without a meaning of their own, where there are so many."""
    weight = model.get_input_embeddings().weight
    config = model.config.get_text_config()
    special: set[Any] = set()
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        ids = getattr(config, name, None)
        special |= set(ids) if isinstance(ids, list) else {ids}
    plain = [i for i in range(min(weight.shape[0], 2 * count + 8)) if i not in special]
    chosen = (plain or [0]) * count
    return torch.tensor([chosen[:count]], device=weight.device)


def _parts(config: Any) -> Iterator[Any]:
    """The config, the configs and dictionaries in it, and what is in those."""
    yield config
    values = config.values() if isinstance(config, dict) else vars(config).values()
    for value in list(values):
        if isinstance(value, dict) or hasattr(value, "to_diff_dict"):
            yield from _parts(value)


def _numbers(part: Any, names: list[str]) -> Iterator[tuple[str, float]]:
    held = part if isinstance(part, dict) else vars(part)
    for name in names:
        value = held[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _set_numbers(part: Any, dropout: float) -> None:
    """Of a config, of a dictionary in one, or of a module."""
    held = part if isinstance(part, dict) else vars(part)
    names = [name for name in held if isinstance(name, str)]
    noise = [name for name in names if NOISE.search(name)] if dropout == 0 else []
    chosen = [name for name in names if DROPOUT.search(name)]
    for name, _ in list(_numbers(part, chosen + noise)):
        if isinstance(part, dict):
            part[name] = dropout
            continue
        try:
            setattr(part, name, dropout)
        except StrictDataclassError:
            # A field that the config declares to be whole (MPT's attn_pdrop). What is not 0 goes
            # to the modules alone.
            if dropout == 0:
                setattr(part, name, 0)


@torch.no_grad()
def _check_no_noise(model: Any) -> None:
    """Refuse a model that is random in training mode, or another one there, with dropout 0."""
    ids = probe_tokens(model, 8)
    device = [ids.device] if ids.device.type == "cuda" else []
    options: dict[str, Any] = {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    was_training = model.training
    found = []
    # The random numbers of the run are not touched.
    with torch.random.fork_rng(device):
        for training in (True, True, False):
            model.train(training)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
            found.append(output.logits.float())
    model.train(was_training)
    once, again, evaluated = found
    size = float(evaluated.abs().max().clamp(min=1.0))
    noise = float((once - again).abs().max()) / size
    change = float((once - evaluated).abs().max()) / size
    # Modes may round differently, as where one has a fused kernel.
    if not (noise <= 1e-6 and change <= (1e-3 if model.dtype == torch.float32 else 3e-2)):
        raise UserError(
            f"{type(model).__name__} with dropout 0 computes other values in training mode than in "
            f"evaluation mode: two passes in training differ by {noise:.2g} of the largest logit, "
            f"training and evaluation by {change:.2g}. PPO's ratios would not start at 1. This "
            "architecture cannot be used with dropout 0; leave the flag out to train it as it is."
        )
