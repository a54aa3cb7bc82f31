"""The Triton kernel in Triton's interpreter against the solver in plain torch.

Run as a script by the test: the interpreter must be chosen before Triton is first imported.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from dschat.regularization import SinkhornDivergence, sinkhorn
from dschat.regularization.transport import sinkhorn_solver


def test_a_cpu_takes_plain_torch():
    assert sinkhorn.default_solver(torch.zeros(1, 2, 2)) is sinkhorn_solver.solve


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_the_kernel_agrees_with_plain_torch():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    found = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "agrees in 12 cases" in found.stdout


def compare() -> None:
    """Penalties of both solvers within 1e-4 for near, far, one-hot and identical distributions."""
    from dschat.regularization.transport import sinkhorn_triton

    generator = torch.Generator().manual_seed(4)
    embeddings = torch.randn(40, 8, generator=generator)
    reference = 3 * torch.randn(4, 40, generator=generator)
    policy = reference + torch.tensor([0.1, 2.0, 0.0, 0.0])[:, None] * torch.randn(
        4, 40, generator=generator
    )
    policy[2] = -torch.inf
    policy[2, 5] = 0.0
    actions = torch.tensor([0, 7, 5, 9])
    cases = 0
    # 5 or more bins in tiles of 16 rows, and 41 in three tiles; small epsilon does not converge.
    for top_k in (2, 40):
        for epsilon, max_iter in ((0.001, 3), (0.05, 30), (0.05, 1), (0.5, 30), (50.0, 30), (1, 1)):
            found, expected = (
                SinkhornDivergence(embeddings, top_k, epsilon, max_iter, 1e-4, solver=solver)(
                    policy, reference, actions
                )
                for solver in (sinkhorn_triton.solve, sinkhorn_solver.solve)
            )
            for field in ("token", "divergence"):
                torch.testing.assert_close(
                    getattr(found, field), getattr(expected, field), rtol=1e-4, atol=1e-4
                )
            for name in ("iterations", "converged"):
                assert found.metrics[name] == expected.metrics[name], name
            assert float(found.token[3]) == float(found.divergence[3]) == 0.0
            cases += 1
    print(f"agrees in {cases} cases")


if __name__ == "__main__":
    compare()
