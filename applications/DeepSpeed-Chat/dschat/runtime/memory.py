"""Memory that DeepSpeed and the C library would take or keep without need."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import torch

from dschat.runtime import distributed

BUCKET_ELEMENTS = 2**22
"""Gradients that are flattened together; a larger one travels by itself, in its own place."""


def spare_gradient_copies(engine: Any) -> None:
    """Let an engine at stage 0 add up gradients in small buckets, and on one rank not at all.

    DeepSpeed copies up to 500 million of them into one fresh buffer and back, on one rank too: as
    much memory again as the gradients have, at the very peak of a step. At other stages nothing is
    changed.
    """
    if engine.zero_optimization_stage() != 0 or engine.has_moe_layers:
        return
    reduce = engine.buffered_allreduce_fallback

    def in_small_buckets(grads: Any = None, elements_per_buffer: int = 0) -> None:
        if distributed.world_size() > 1:
            reduce(grads, BUCKET_ELEMENTS)
        else:
            engine._get_gradients_for_reduction()  # gives weights without a gradient one of 0

    engine.buffered_allreduce_fallback = in_small_buckets


def give_back_freed_memory() -> None:
    """Return freed blocks of the heap to the system; does nothing on a GPU or without glibc.

    Blocks below 32 MB come from one heap, which shrinks only at its end: gradients that stay lie
    there among a pass's activations, and hold the room of all of them.
    """
    if torch.cuda.is_available():
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
