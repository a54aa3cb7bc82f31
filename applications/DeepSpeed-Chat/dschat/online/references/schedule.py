"""A reference that follows the policy: `--reference_schedule ema`, `reset` or `interpolate`.

After an iteration, with policy weights p and reference weights r:

    ema          r <- d r + (1 - d) p           every iteration       EMA-PG, arXiv 2602.04417
    reset        r <- p, AdamW's moments <- 0   every N iterations    ProRL, arXiv 2505.24864
    interpolate  r <- (1 - a) r + a p           every N iterations    TR-DPO, arXiv 2404.09656

ProRL resets "the optimizer states" with the reference: here those of the actor, whose moments and
step count start again at zero; the learning rate's schedule and the critic go on. TR-DPO counts
optimiser steps, here iterations are counted, skipped ones too. All three are heuristics: the
penalty is the divergence from a reference that depends on the run, so there is no fixed objective
that the run as a whole descends, and how far the policy gets from its start is not bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dschat.checkpoint.ema import gather_share, share_of
from dschat.errors import UserError
from dschat.models.key_values import plain_model
from dschat.models.lora import ADAPTER, PEFT_PREFIX, is_lora
from dschat.models.references import FrozenPolicy, Reference
from dschat.models.zero3 import whole_parameters
from dschat.settings.online import OnlineConfig

NO_FUNCTION = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Entries of a model's config that say nothing about the function of its weights."""


class ReferenceSchedule:
    """Moves the one reference of a run; all ranks call its methods.

    Every rank holds the whole reference and computes the same move. The policy's weights are
    gathered one at a time under ZeRO 3, and adapters are added to the weight that they belong to.
    Averages are float32 also where the reference is not: small steps would be rounded away.

    Args:
        kind: ema, reset or interpolate.
        share: weight of the policy in a move, in (0, 1].
        interval: iterations from move to move.
        actor: the DeepSpeed engine around the policy.
        reference: what moves; of the policy's architecture.

    Raises:
        UserError: the two differ in more than the values of their weights.
    """

    def __init__(
        self, kind: str, share: float, interval: int, actor: Any, reference: Reference
    ) -> None:
        self.kind, self.share, self.interval, self.actor = kind, share, interval, actor
        if kind == "reset" and getattr(actor.optimizer, "swap_optimizer", False):
            raise UserError(
                "--reference_schedule reset clears the optimiser's moments, and --deepspeed_config "
                "keeps them on NVMe. Keep them in CPU memory (--offload), or use interpolate with "
                "--reference_mix 1, which leaves them as they are."
            )
        self.weights = dict(reference.policy.model.named_parameters())
        _check_same_architecture(actor.module.model, reference.policy.model)
        # Where they may stay the weights themselves there are none of their own.
        self.averages = {
            name: p.detach().float()
            for name, p in self.weights.items()
            if share < 1 and p.dtype != torch.float32
        }

    @classmethod
    def of(
        cls, config: OnlineConfig, actor: Any, references: Sequence[FrozenPolicy]
    ) -> ReferenceSchedule | None:
        """The schedule that the settings name; None: the reference stays."""
        kind = config.reference_schedule
        if kind == "fixed":
            return None
        shares = {
            "ema": 1 - (config.reference_decay or 0.0),
            "reset": 1.0,
            "interpolate": config.reference_mix or 0.0,
        }
        (reference,) = references
        assert isinstance(reference, Reference)  # the settings' checks refuse the others
        return cls(kind, shares[kind], config.reference_interval or 1, actor, reference)

    def moves(self, iteration: int) -> int:
        """How often the reference has moved when `iteration` iterations are done."""
        return iteration // self.interval

    @torch.no_grad()
    def after(self, iteration: int) -> dict[str, float]:
        """Move the reference, where it is time.

        Args:
            iteration: iterations done, the one just ended included.

        Returns:
            Metrics: `reference_moves`, so far.
        """
        if iteration % self.interval == 0:
            for name, weight in merged_weights(self.actor.module.model):
                average = self._average(name)
                average.lerp_(weight.to(average), self.share)
                self.weights[name].copy_(average)
            if self.kind == "reset":
                forget_moments(self.actor)
        return {"reference_moves": float(self.moves(iteration))}

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's part of the reference, flat, on CPU: a checkpoint has it once in all."""
        return {name: share_of(self._average(name)).cpu().clone() for name in self.weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the reference of a checkpoint from the parts of all ranks; collective."""
        for name, weight in self.weights.items():
            average = self._average(name)
            whole = gather_share(state[name], weight)
            average.copy_(whole[: average.numel()].view_as(average))
            weight.copy_(average)

    def _average(self, name: str) -> Tensor:
        return self.averages[name] if name in self.averages else self.weights[name]


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and whole weights of a policy without its adapters' names; their updates are added.

    Each is valid until the next is asked for; all ranks must ask for all of them.

    Args:
        model: a transformers model, or a `PeftModel` around one; under ZeRO 3 or not.

    Yields:
        (name in the plain model, weight); with an adapter W + scaling * B A, in float32.
    """
    from peft.tuners.lora import LoraLayer

    parameters = dict(model.named_parameters())
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, base in parameters.items():
        if is_lora(name):
            continue
        layer_name, _, rest = name.partition(".base_layer.")
        layer: Any = layers.get(layer_name) if rest == "weight" else None
        pair = [] if layer is None else [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        with whole_parameters([base, *pair]):
            weight = base.detach()
            if layer is not None:
                delta = layer.scaling[ADAPTER] * (pair[1].float() @ pair[0].float())
                # GPT-2's Conv1D stores the transpose.
                weight = weight.float() + (delta.t() if layer.fan_in_fan_out else delta)
            yield name.removeprefix(PEFT_PREFIX).replace(".base_layer.", "."), weight


def forget_moments(engine: Any) -> None:
    """Set AdamW's moments and step counts to zero, as if it had taken no step yet.

    Args:
        engine: a DeepSpeed engine, whose optimiser may lie within others (ZeRO, bf16, fp16).
    """
    optimizer = engine.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


def _check_same_architecture(policy: Any, reference: Any) -> None:
    """Refuse a reference that would not be the policy with the policy's weights in it."""
    plain = plain_model(policy)
    shapes = {
        n.removeprefix(PEFT_PREFIX).replace(".base_layer.", "."): tuple(
            getattr(p, "ds_shape", p.shape)
        )
        for n, p in policy.named_parameters()
        if not is_lora(n)
    }
    others = {n: tuple(p.shape) for n, p in reference.named_parameters()}
    differing = [n for n in shapes.keys() | others.keys() if shapes.get(n) != others.get(n)]
    own, other = plain.config.to_dict(), reference.config.to_dict()
    settings = [
        name
        for name in own.keys() | other.keys()
        if own.get(name) != other.get(name)
        and name not in NO_FUNCTION
        and "drop" not in name
        and not name.endswith("token_id")
    ]
    found = sorted(differing)[:3] + sorted(settings)[:3]
    if type(plain) is not type(reference) or found:
        raise UserError(
            f"--reference_schedule: the reference is a {type(reference).__name__} that differs "
            f"from the policy, a {type(plain).__name__}"
            f"{' (' + ', '.join(found) + ')' if found else ''}; only a reference of the policy's "
            "own architecture can follow it. Give one (without any it is the policy's start), or "
            "--reference_schedule fixed."
        )
