"""Which penalties tell a near token from a far one."""

from pathlib import Path

import pytest
from dschat.evaluation import semantics


def test_only_the_sinkhorn_divergence_orders_the_policies_by_distance() -> None:
    found = semantics.penalties()
    for name in ("KL", "JS", semantics.PUBLISHED):
        near, far = found[name]["policy A"], found[name]["policy B"]
        assert near == pytest.approx(far, rel=1e-6), name
        assert near > 0
    near, far = (found[semantics.SINKHORN][policy] for policy in ("policy A", "policy B"))
    # Half of the mass of "cat" moves: 1.03 to "kitten", 4.22 to "tractor".
    assert far / near == pytest.approx(4.22 / 1.03, rel=0.15)


def test_the_published_penalty_sees_the_distance_at_a_fitting_epsilon() -> None:
    near, far = (semantics.mean_penalty(semantics.published(0.5), p) for p in semantics.POLICIES)
    assert far > near + 0.1


def test_the_picture_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    semantics.main([str(tmp_path / "figures" / "semantics.png")])
    assert (tmp_path / "figures" / "semantics.png").stat().st_size > 10_000
    assert "Sinkhorn divergence" in capsys.readouterr().out
