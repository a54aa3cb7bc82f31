"""docs/metrics.md explains every field; runs of other tests are looked at where they are read."""

from __future__ import annotations

import json

from documented import explained, unexplained
from launch import ROOT


def test_the_recorded_trajectories_are_explained() -> None:
    recorded = json.loads((ROOT / "tests/vectors/trajectory.json").read_text())
    rows = [row for case in recorded.values() for row in case["metrics"]]
    assert len(explained()) > 80
    assert not unexplained(rows)


def test_what_is_not_explained_is_noticed() -> None:
    fields = {"log_ratio/ref_12", "penalty/converged/ref_0", "eval/pass_at_8", "new_metric"}
    assert unexplained([dict.fromkeys(fields)]) == {"new_metric"}
