"""Whole parameters where ZeRO 3 has partitioned them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import Parameter


@contextmanager
def whole_parameters(parameters: Iterable[Parameter]) -> Iterator[None]:
    """Whole inside, freed again after it; collective where any of them is partitioned.

    Where all are whole already, as inside another such block, nothing is done.
    """
    partitioned: list[Any] = [p for p in parameters if hasattr(p, "ds_id")]
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
