"""Far from epsilon the published penalty is KL with an entropy bonus: by its benchmark's table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_published_penalty_and_its_gradient_are_kl_with_an_entropy_bonus() -> None:
    # In a process of its own: the file registers a penalty.
    command = [sys.executable, str(ROOT / "benchmarks/wpr_limit.py")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [[float(cell) for cell in line.strip("| ").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows] == [5.0] * 3 + [10.0] * 3 + [30.0] * 3
    for n, drift, f, gradient, entropy in rows:
        beyond_the_stabiliser = n == 30 and drift == 1
        assert (gradient > 0.01) is beyond_the_stabiliser, (n, drift)
        assert (f > 1e-3) is beyond_the_stabiliser, (n, drift)
        if not beyond_the_stabiliser:
            # It is not KL alone that the gradient agrees with.
            assert entropy > 100 * gradient, (n, drift)
