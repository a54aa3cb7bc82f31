"""An exponential moving average of the actor's weights (`--enable_ema`), saved beside the actor.

Source: DeepSpeed-Chat, `moving_average` with beta = 0.992: average <- beta * average + (1 - beta) *
weight. It does so after every micro-batch, accumulated or not; here it is done after every
optimiser step, so that the average does not depend on how a batch is cut (without accumulation that
is the same). Averages are float32 also where weights are not: steps of 0.8 % would be rounded away.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dschat.checkpoint.model_folder import gathered_state_dict
from dschat.errors import UserError
from dschat.runtime import distributed

BETA = 0.992


class MovingAverage:
    """Averages of a model's trainable weights, a share of each on every rank.

    The average of a share is the share of the average: a rank keeps 1 / ranks of each weight, under
    ZeRO 3 the very part that it holds. Frozen weights are their own average. LoRA adapters are
    averaged as they are, and merged when the average is saved, as in DeepSpeed-Chat.

    Args:
        model: the model inside a DeepSpeed engine, which starts the average.
        beta: weight of the average in a step.
        device: where averages are kept; None: beside the weights.
    """

    def __init__(
        self, model: torch.nn.Module, beta: float = BETA, device: torch.device | None = None
    ) -> None:
        self.beta = beta
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.model = model
        self.shares = {
            name: share_of(p).detach().to(device=device, dtype=torch.float32, copy=True)
            for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after an optimiser step; no communication."""
        for name, average in self.shares.items():
            average.lerp_(share_of(self.parameters[name]).to(average), 1 - self.beta)

    @torch.no_grad()
    def gathered_state_dict(self) -> dict[str, Tensor]:
        """The model's whole weights with averages in the place of the trained ones.

        Returns:
            On CPU at rank 0, in the weights' dtype, under the names of the model; an empty
            dictionary elsewhere. All ranks must call it.
        """
        state = gathered_state_dict(self.model)
        for name, share in self.shares.items():
            whole = gather_share(share, self.parameters[name])
            if distributed.is_main():
                shape = state[name].shape
                flat = whole[: shape.numel()]
                state[name] = flat.view(shape).to(state[name].dtype).cpu()
        return state

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's shares, for a checkpoint that every rank writes its part of."""
        return dict(self.shares)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from the shares that this rank has saved.

        Raises:
            UserError: they are of another model, or of another number of ranks.
        """
        expected = {name: share.shape for name, share in self.shares.items()}
        found = {name: share.shape for name, share in state.items()}
        if found != expected:
            differing = sorted(n for n in found | expected if found.get(n) != expected.get(n))
            raise UserError(
                f"The saved average of the actor does not fit this run ({', '.join(differing[:3])}"
                "): use the model, the ZeRO stage and the number of ranks of the saved run."
            )
        for name, share in self.shares.items():
            share.copy_(state[name])


def share_of(parameter: Any) -> Tensor:
    """This rank's flat part of a weight: equal lengths on all ranks, the last one may be filled up.

    Under ZeRO 3 it is the partition that the rank holds.

    Raises:
        UserError: that partition is on disk.
    """
    if hasattr(parameter, "ds_tensor"):
        if getattr(getattr(parameter.ds_tensor, "status", None), "name", "") == "NOT_AVAILABLE":
            raise UserError(
                "--enable_ema needs the actor's weights in memory, and --deepspeed_config keeps "
                "them on NVMe. Remove --enable_ema, or offload parameters to the CPU (--offload)."
            )
        return parameter.ds_tensor.data.view(-1)
    flat, world = parameter.detach().reshape(-1), distributed.world_size()
    if world == 1:
        return flat
    length = -(-flat.numel() // world)
    part = flat[distributed.rank() * length :][:length]
    return torch.nn.functional.pad(part, (0, length - part.numel()))


def gather_share(share: Tensor, parameter: Any) -> Tensor:
    """[ranks * length] all ranks' shares in their order, on the device that communicates."""
    if distributed.world_size() == 1:
        return share
    group = getattr(parameter, "ds_process_group", None)
    share = share.to("cuda" if dist.get_backend() == "nccl" else "cpu")
    whole = share.new_empty(dist.get_world_size(group) * share.numel())
    dist.all_gather_into_tensor(whole, share, group=group)
    return whole
