"""Freed blocks between blocks that stay go back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from launch import environment

SCATTERED = """
import torch
from dschat.runtime.memory import give_back_freed_memory

def resident_mib():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) / 1024

before = resident_mib()
blocks = [torch.ones(2**18) for _ in range(200)]  # 1 MiB each: from the heap, see below
stay = blocks[::10]
del blocks
kept = resident_mib() - before
give_back_freed_memory()
print(kept, resident_mib() - before, sum(len(block) for block in stay))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="glibc's heap, on a CPU"
)
def test_freed_blocks_among_others_are_given_back() -> None:
    env = environment(MALLOC_MMAP_THRESHOLD_="8388608")
    result = subprocess.run(
        [sys.executable, "-c", SCATTERED], env=env, capture_output=True, text=True, check=True
    )
    kept, left, elements = (float(word) for word in result.stdout.split())
    assert elements == 20 * 2**18
    assert kept > 150
    assert 15 < left < 40
