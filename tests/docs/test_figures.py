"""The programs of docs/figures: their numbers against a linear programme and direct sums."""

from pathlib import Path

import numpy as np
import overview
import pytest
import semantics
import torch
from scipy.optimize import linprog


def transport_by_linear_programme(p: torch.Tensor, q: torch.Tensor, points: torch.Tensor) -> float:
    size = len(p)
    cost = torch.cdist(points, points).flatten().numpy()
    rows = np.kron(np.eye(size), np.ones(size))
    columns = np.kron(np.ones(size), np.eye(size))
    marginals = torch.cat([p, q]).numpy()
    return float(linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=marginals).fun)


def test_both_policies_have_the_same_kl_and_different_transport() -> None:
    found = overview.distances()
    a, b = found["policy A"], found["policy B"]
    assert a["KL"] == pytest.approx(b["KL"], abs=1e-6)
    assert a["KL"] == pytest.approx(0.4 * np.log(0.4 / 0.8) + 0.45 * np.log(0.45 / 0.05), abs=1e-6)
    assert b["transport"] > 2 * a["transport"] > 0


@pytest.mark.parametrize("name", list(overview.POLICIES))
def test_transport_is_that_of_the_linear_programme(name: str) -> None:
    policy = overview.POLICIES[name]
    expected = transport_by_linear_programme(policy, overview.REFERENCE, overview.EMBEDDING)
    assert overview.distances()[name]["transport"] == pytest.approx(expected, abs=1e-9)


def test_closed_form_holds_for_one_losing_token_and_refuses_two() -> None:
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    reference = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.02], dtype=torch.float64)
    one_loses = reference + torch.tensor([-0.4, 0.1, 0.0, 0.2, 0.05, 0.05], dtype=torch.float64)
    expected = transport_by_linear_programme(one_loses, reference, points)
    found = overview.transport_distance(one_loses, reference, points)
    assert found == pytest.approx(expected, abs=1e-9)
    two_lose = reference.flip(0)
    with pytest.raises(ValueError, match="expected one"):
        overview.transport_distance(two_lose, reference, points)


def test_draws_the_same_picture_twice(tmp_path: Path) -> None:
    overview.draw(tmp_path / "new" / "a.png")
    overview.draw(tmp_path / "b.png")
    first = (tmp_path / "new" / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == (tmp_path / "b.png").read_bytes()


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
