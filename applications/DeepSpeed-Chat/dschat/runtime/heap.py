"""What the C library keeps of freed blocks."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch


def give_back_freed_memory() -> None:
    """Return freed blocks of the heap to the system; does nothing on a GPU or without glibc.

    Blocks below 32 MB come from one heap, which shrinks only at its end: gradients that stay lie
    there among a pass's activations, and hold the room of all of them.
    """
    if torch.cuda.is_available():
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
