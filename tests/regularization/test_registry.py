"""Configurations become regularisers; what would do nothing or is unknown is refused."""

from types import SimpleNamespace

import pytest
import torch
from dschat.regularization import (
    FDivergence,
    KLDivergence,
    SinkhornDivergence,
    TruncatedWasserstein,
    regularizer_from_config,
)


def build(regularizer, *parts, **options):
    return regularizer_from_config(SimpleNamespace(regularizer=regularizer, **options), *parts)


def test_kl_takes_its_estimator():
    regularizer = build("kl", kl_estimator="k3")
    assert isinstance(regularizer, KLDivergence)
    assert regularizer.estimator == "k3"
    assert regularizer.reward_clip is None


def test_f_divergence_takes_its_options():
    regularizer = build(
        "f_divergence",
        f_div="alpha",
        f_div_alpha=0.2,
        f_div_form="gradient",
        f_div_low_var=False,
        kl_estimator="k1",
    )
    assert isinstance(regularizer, FDivergence)
    assert (regularizer.name, regularizer.form) == ("alpha", "gradient")
    policy, reference = torch.randn(2, 3, 5)
    actions = torch.tensor([0, 1, 2])
    expected = FDivergence("alpha", 0.2, "gradient")(policy, reference, actions)
    torch.testing.assert_close(regularizer(policy, reference, actions).token, expected.token)
    assert build("f_divergence", f_div="fkl", f_div_low_var=True).low_variance


def test_reverse_kl_keeps_the_published_clip_in_the_value_form_only():
    published = build("f_divergence", f_div="rkl", f_div_form="value")
    assert isinstance(published, FDivergence)
    assert published.reward_clip == 2.5
    estimated = build("f_divergence", f_div="rkl", f_div_form="value", kl_estimator="k2")
    assert isinstance(estimated, KLDivergence)
    assert (estimated.estimator, estimated.reward_clip) == ("k2", 2.5)
    unbiased = build("f_divergence", f_div="rkl", f_div_form="gradient", kl_estimator="k3")
    assert isinstance(unbiased, KLDivergence)
    assert (unbiased.estimator, unbiased.reward_clip) == ("k3", None)


def test_wasserstein_takes_its_options_and_keeps_defaults_for_none():
    embeddings = torch.randn(20, 4)
    regularizer = build(
        "wasserstein",
        embeddings,
        0,
        1,
        cost_dim=5,
        cost_type="cos",
        epsilon=None,
        max_iter=None,
        tol=None,
        top_k=3,
        normalize=True,
        block_size=7,
    )
    assert isinstance(regularizer, TruncatedWasserstein)
    assert (regularizer.table.vocabulary, regularizer.table.k) == (20, 5)
    assert regularizer.table.metric_key == "cos"
    assert (regularizer.epsilon, regularizer.max_iter, regularizer.tol) == (0.01, 10, 1e-6)
    assert regularizer.normalize
    assert (regularizer.top_k, regularizer.pad_token_id, regularizer.eos_token_id) == (3, 0, 1)
    assert build("wasserstein", embeddings, epsilon=0.5).epsilon == 0.5


def test_transport_chooses_the_sinkhorn_divergence_with_its_own_defaults():
    options = {"cost_dim": 5, "epsilon": None, "max_iter": None, "tol": None, "top_k": 3}
    embeddings = torch.randn(20, 4)
    for name in ("wasserstein", "sinkhorn_divergence"):
        regularizer = build(name, embeddings, transport="sinkhorn_divergence", **options)
        assert isinstance(regularizer, SinkhornDivergence)
        assert (regularizer.max_iter, regularizer.tol) == (200, 1e-3)
        assert regularizer.epsilon == SinkhornDivergence(embeddings).epsilon
        assert regularizer.top_k == 3
    published = build("wasserstein", embeddings, transport="published", **options)
    assert isinstance(published, TruncatedWasserstein)
    with pytest.raises(ValueError, match="published, sinkhorn_divergence"):
        build("wasserstein", embeddings, transport="exact")


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="kl, f_divergence, wasserstein, sinkhorn_divergence"):
        build("kullback")
    with pytest.raises(ValueError, match="no token_embeddings"):
        build("wasserstein")
    with pytest.raises(ValueError, match="--kl_estimator k3"):
        build("f_divergence", f_div="js", kl_estimator="k3")
    with pytest.raises(ValueError, match="rkl, fkl"):
        build("f_divergence", f_div="hellinger")


def test_another_class_is_built_from_what_its_parameters_name():
    class Mine:
        def __init__(self, strength, token_embeddings, pad_token_id=3, bound=None, seed=0):
            self.given = strength, token_embeddings, pad_token_id, bound, seed

        def __call__(self, policy_logits, reference_logits, actions):
            return KLDivergence()(policy_logits, reference_logits, actions)

    embeddings = torch.randn(5, 2)
    config = SimpleNamespace(regularizer="mine", strength=2.0, bound=None, seed=4, other=1)
    built = regularizer_from_config(config, embeddings, target=Mine)
    assert built.regularizer.given == (2.0, embeddings, 3, None, 4)
    assert (built.name, built.reward_clip) == ("mine", None)
    with pytest.raises(ValueError, match="'mine' was given no token_embeddings"):
        regularizer_from_config(config, target=Mine)
