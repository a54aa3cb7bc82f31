"""The alpha divergence near its limits, in float32, against float64 and mpmath."""

import mpmath
import pytest
import torch
from dschat.regularization import FDivergence
from dschat.regularization.f_functions import Alpha, ForwardKL, ReverseKL, expm1_minus

ALPHAS = [1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.7, 0.999, 1 - 1e-6, 1 - 1e-12]
LOG_RATIOS = [-30.0, -3.0, -0.7, -0.1, -1e-3, -1e-5, 1e-5, 1e-3, 0.1, 0.7, 3.0, 30.0]


def exact(l: float, a: float, what: str) -> float:
    mpmath.mp.dps = 60
    l, a = mpmath.mpf(l), mpmath.mpf(a)
    if what == "derivative":
        return float((1 - mpmath.exp(-a * l)) / a)
    return float((mpmath.exp(-a * l) - a * mpmath.exp(-l) - (1 - a)) / (a * (a - 1)))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("what", ["value", "derivative"])
def test_value_and_derivative_in_float32(alpha, what):
    l = torch.tensor(LOG_RATIOS)
    found = getattr(Alpha(alpha), what)(l).double()
    expected = [exact(float(x), alpha, what) for x in l]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=5e-6, atol=0.0
    )


@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0, 30.0])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_divergence_in_float32(alpha, scale, rng):
    policy = 2 * torch.randn(6, 40, generator=rng, dtype=torch.float64)
    reference = policy + scale * torch.randn(6, 40, generator=rng, dtype=torch.float64)
    p, q = (x.float().log_softmax(1) for x in (policy, reference))
    found = Alpha(alpha).divergence(p, q)
    mpmath.mp.dps = 60
    for row in range(6):
        expected = mpmath.fsum(
            mpmath.exp(x) * exact_term(x - y, alpha)
            for x, y in zip(
                map(mpmath.mpf, p[row].tolist()), map(mpmath.mpf, q[row].tolist()), strict=True
            )
        )
        assert float(found[row]) == pytest.approx(float(expected), rel=2e-5, abs=1e-12)


def exact_term(l, a):
    a = mpmath.mpf(a)
    return (mpmath.exp(-a * l) - a * mpmath.exp(-l) - (1 - a)) / (a * (a - 1))


@pytest.mark.parametrize(("alpha", "limit"), [(1e-9, ReverseKL()), (1 - 1e-9, ForwardKL())])
def test_the_limits_are_the_two_kl_divergences(alpha, limit, rng):
    logits = torch.randn(2, 5, 30, generator=rng)
    log_pi, log_rho = (x.log_softmax(1) for x in logits)
    found = Alpha(alpha).divergence(log_pi, log_rho)
    torch.testing.assert_close(found, limit.divergence(log_pi, log_rho), rtol=1e-5, atol=0.0)
    actions = torch.randint(30, (5,), generator=rng)
    penalties = [
        FDivergence(name, a, form="gradient")(*logits, actions)
        for name, a in (("alpha", alpha), ("rkl" if alpha < 0.5 else "fkl", 0.5))
    ]
    torch.testing.assert_close(penalties[0].token, penalties[1].token, rtol=1e-4, atol=1e-5)


def test_expm1_minus_is_accurate_in_both_dtypes():
    mpmath.mp.dps = 60
    for x in (-5.0, -0.51, -0.49, -1e-4, 1e-9, 0.3, 0.5, 2.0):
        for dtype, rel in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
            y = torch.tensor([x], dtype=dtype)
            expected = mpmath.expm1(mpmath.mpf(float(y))) - mpmath.mpf(float(y))
            assert float(expm1_minus(y)) == pytest.approx(float(expected), rel=rel)


def test_impossible_tokens_stay_finite(extreme_logits):
    policy, reference = extreme_logits
    for alpha in (1e-9, 0.3, 1 - 1e-9):
        penalty = FDivergence("alpha", alpha)(policy, reference, torch.zeros(4, dtype=torch.int64))
        assert torch.isfinite(penalty.divergence).all()
