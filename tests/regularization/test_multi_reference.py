"""Several references as a weighted sum."""

import pytest
import torch
from dschat.regularization import (
    FDivergence,
    KLDivergence,
    MixtureReference,
    MultiReference,
    PolicyRegularizer,
    TruncatedWasserstein,
    with_defaults,
)

WEIGHTS = [0.2, 0.5, 0.3]


def inputs(rng):
    policy, *references = torch.randn(4, 6, 11, generator=rng, dtype=torch.float64)
    return policy, references, torch.randint(11, (6,), generator=rng)


def test_reverse_kl_subtracts_the_weighted_mean_of_reference_log_probs(rng):
    policy, references, actions = inputs(rng)
    penalty = MultiReference(KLDivergence("exact"), WEIGHTS)(policy, references, actions)
    log_mixture = sum(
        w * reference.log_softmax(-1) for w, reference in zip(WEIGHTS, references, strict=True)
    )
    difference = policy.log_softmax(-1) - log_mixture
    torch.testing.assert_close(penalty.token, difference[torch.arange(6), actions])
    exact = (policy.softmax(-1) * difference).sum(-1)
    torch.testing.assert_close(penalty.divergence, exact)


def test_all_weight_on_one_reference_is_that_reference(rng):
    policy, references, actions = inputs(rng)
    for inner in (FDivergence("js", form="gradient"), KLDivergence()):
        alone = inner(policy, references[1], actions)
        weighted = MultiReference(inner, [0.0, 1.0, 0.0])(policy, references, actions)
        torch.testing.assert_close(weighted.token, alone.token)
        torch.testing.assert_close(weighted.divergence, alone.divergence)
        assert weighted.metrics["log_ratio/ref_1"] == pytest.approx(alone.metrics["log_ratio"])
        assert weighted.metrics["divergence/ref_1"] == pytest.approx(float(alone.divergence.mean()))


def test_padded_widths_are_cut_to_the_shared_one(rng):
    policy, references, actions = inputs(rng)
    wide = [torch.cat([reference, torch.randn(6, k)], 1) for k, reference in enumerate(references)]
    regularizer = MultiReference(KLDivergence("exact"), WEIGHTS)
    plain = regularizer(policy, references, actions)
    padded = regularizer(torch.cat([policy, torch.randn(6, 5)], 1), wide, actions)
    torch.testing.assert_close(padded.token, plain.token)
    torch.testing.assert_close(padded.divergence, plain.divergence)


def test_transport_shares_one_support_over_references(rng):
    policy, references, actions = inputs(rng)
    inner = TruncatedWasserstein(
        torch.randn(11, 3, generator=rng), cost_dim=4, top_k=2, epsilon=1.0, eos_token_id=1
    )
    regularizer = MultiReference(inner, WEIGHTS)
    support = regularizer.collect_support(policy, references, actions)
    apart = [inner.collect_support(policy, each, actions) for each in references]
    assert torch.equal(support, torch.cat(apart).unique())
    penalty = regularizer(policy, references, actions, support=support)
    parts = [inner(policy, each, actions, support) for each in references]
    expected = sum(w * part.token for w, part in zip(WEIGHTS, parts, strict=True))
    torch.testing.assert_close(penalty.token, expected)
    assert regularizer.uses_support
    assert not MultiReference(KLDivergence(), WEIGHTS).uses_support


@pytest.mark.parametrize(
    "weights", [[], [0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0], [0.5, 0.5 + 1e-4]]
)
def test_weights_that_are_no_distribution_are_refused(weights):
    with pytest.raises(ValueError, match="sum 1"):
        MultiReference(KLDivergence(), weights)


def test_another_number_of_references_is_refused(rng):
    policy, references, actions = inputs(rng)
    regularizer = MultiReference(KLDivergence(), WEIGHTS)
    for given in (references[:2], references[0]):
        with pytest.raises(ValueError, match="3 weights"):
            regularizer(policy, given, actions)


def test_a_mixtures_weights_do_not_depend_on_the_dtype_of_the_logits(rng):
    """Log-probabilities of hundreds of tokens, two nats apart: bf16 has steps of 2 there."""
    logits = torch.randn(3, 1, 20, generator=rng).bfloat16()
    so_far = torch.tensor([[-400.0, -401.3]])
    weights = [0.4, 0.6]
    penalty = MixtureReference(FDivergence("fkl", form="gradient"), weights)(
        logits[0], [logits[1], logits[2]], torch.tensor([3]), prefix_logprobs=so_far
    )
    posterior = (torch.tensor(weights).log() + so_far[0]).softmax(0)
    assert penalty.metrics["weight/ref_0"] == pytest.approx(float(posterior[0]), rel=1e-5)
    exact = torch.einsum("k,kv->v", posterior, logits[1:, 0].float().softmax(1))
    policy = logits[0, 0].float().softmax(0)
    expected = (exact * (exact / policy).log()).sum()
    torch.testing.assert_close(penalty.divergence[0], expected, rtol=1e-4, atol=1e-6)


def test_a_plain_callable_gets_the_defaults_of_the_protocol():
    kl = KLDivergence()

    def mine(policy_logits, reference_logits, actions):
        return kl(policy_logits, reference_logits, actions)

    class Supported:
        name = "supported"
        reward_clip = 0.5

        def __call__(self, policy_logits, reference_logits, actions, support=None):
            return mine(policy_logits, reference_logits, actions)

        def collect_support(self, policy_logits, reference_logits, token_ids, support=None):
            return token_ids

    plain, supported = with_defaults(mine), with_defaults(Supported())
    assert (plain.name, plain.reward_clip, plain.uses_support) == ("mine", None, False)
    assert (plain.diagnose(), plain.warning(), plain.first_report({}, 1.0)) == ({}, None, None)
    assert (supported.name, supported.reward_clip, supported.uses_support) == (
        "supported",
        0.5,
        True,
    )
    tokens = torch.arange(3)
    assert supported.collect_support(None, None, tokens) is tokens
    policy, reference = torch.randn(2, 3, 5)
    both = MultiReference(mine, [0.5, 0.5])(policy, [reference, reference], tokens)
    torch.testing.assert_close(both.token, kl(policy, reference, tokens).token)
    assert with_defaults(kl) is kl

    class Nameless(PolicyRegularizer):
        def __call__(self, policy_logits, reference_logits, actions):
            return mine(policy_logits, reference_logits, actions)

    assert with_defaults(Nameless(), "typed").name == "typed"
