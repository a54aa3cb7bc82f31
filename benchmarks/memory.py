"""Peak memory of a call beyond what was there before it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")


def extra_peak(call: Callable[[], Result]) -> tuple[Result, str]:
    """Result of the call and its extra peak in MiB, of the GPU if there is one.

    On Linux's CPUs the kernel's mark of the highest resident memory is reset before the call;
    elsewhere, where it cannot be, the second value is "?". What the allocator kept of earlier calls
    is given back first, as far as it lies at the end of its heap.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        return result, f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return call(), "?"
    before = _status("VmRSS")
    result = call()
    return result, f"{max(0, _status('VmHWM') - before) / 1024:.0f}"


def _status(field: str) -> int:
    """KiB of this process, from the system's status file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0
