"""Gradients at ZeRO stage 0: the same as DeepSpeed's, without a second copy of all of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import deepspeed_settings
from dschat.runtime.memory import spare_gradient_copies
from launch import environment, run_script
from torch.utils._python_dispatch import TorchDispatchMode

WIDTH, LAYERS = 6, 5


class Unused(torch.nn.Module):
    """Five equal layers of which the last one is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).tanh()
        return x.square().sum()


class Largest(TorchDispatchMode):
    """Notes the most elements of any result."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def gradients(spared: bool) -> tuple[list[list[float]], int]:
    """Gradients of all parameters, and the largest tensor that adding them up has made."""
    import deepspeed

    distributed.init_distributed()
    torch.manual_seed(0)
    module = Unused()
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(module.parameters(), lr=0.1),
        config=deepspeed_settings(0, torch.float32, 1, 1, distributed.world_size()),
    )
    if spared:
        spare_gradient_copies(engine)
    reduce, largest = engine.allreduce_gradients, Largest()

    def watched(*args: Any, **options: Any) -> None:
        with largest:
            reduce(*args, **options)

    engine.allreduce_gradients = watched
    torch.manual_seed(distributed.rank())
    engine.backward(engine(torch.randn(4, WIDTH)))
    return [p.grad.flatten().tolist() for p in module.parameters()], largest.elements


def test_one_rank_copies_nothing() -> None:
    expected, copied = gradients(spared=False)
    found, largest = gradients(spared=True)
    assert found == expected
    assert found[-1] == [0.0] * WIDTH  # a weight without a gradient gets one, as on several ranks
    assert copied >= LAYERS * WIDTH * WIDTH > 4 * largest


@pytest.mark.slow
def test_two_ranks_add_up_in_small_buckets(tmp_path: Path) -> None:
    here = Path(__file__)
    env = environment()
    env["PYTHONPATH"] = ":".join([str(here.parents[1]), env.get("PYTHONPATH", "")])
    run = run_script(here, [tmp_path / "found.json"], ranks=2, env=env)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (expected, copied), (found, largest) = json.loads((tmp_path / "found.json").read_text())
    assert found == expected
    assert copied >= LAYERS * WIDTH * WIDTH > 2 * largest


if __name__ == "__main__":  # one of two ranks, called with --local_rank and a file
    from dschat.runtime import memory

    memory.BUCKET_ELEMENTS = WIDTH * WIDTH
    both = [gradients(spared=False), gradients(spared=True)]
    if distributed.rank() == 0:
        Path(sys.argv[-1]).write_text(json.dumps(both))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
