"""Two ranks have the advantages and the gradient of one; the group lies on both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launch import run_script

SCRIPT = Path(__file__).with_name("trl_on_ranks.py")


@pytest.mark.slow
def test_two_ranks_equal_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        done = run_script(SCRIPT, [tiny_model_dir, tmp_path], ranks=ranks)
        assert done.returncode == 0, done.stderr[-2000:]
    one, both = (torch.load(tmp_path / f"{n}.pt") for n in (1, 2))
    assert (one[3], both[3]) == (1, 2)
    torch.testing.assert_close(both[1], one[1], atol=1e-5, rtol=1e-5)
    assert float((both[0] - one[0]).norm() / one[0].norm()) < 1e-5
    assert both[2] == pytest.approx(one[2], rel=1e-5)
