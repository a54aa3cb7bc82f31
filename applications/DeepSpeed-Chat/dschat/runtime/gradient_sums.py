"""Gradients added up over the ranks at ZeRO stage 0 without a second copy of all of them."""

from __future__ import annotations

from typing import Any

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
