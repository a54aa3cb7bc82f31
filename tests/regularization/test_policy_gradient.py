"""Does -beta * token as a reward give the gradient of E[R] - beta E[sum of divergences]?

All sequences of a small world are enumerated, so expectations are exact. Sequences end with the
end-of-sequence token or at the length limit: with one fixed length a shifted penalty would pass.
"""

import itertools

import pytest
import torch
from dschat.regularization import FDivergence, KLDivergence, MultiReference, SinkhornDivergence

VOCABULARY, EOS, MAX_LENGTH, BETA = 3, 2, 3, 0.7


def prefixes():
    """Token sequences after which another token is drawn; the rows of the tables of logits."""
    open_tokens = [token for token in range(VOCABULARY) if token != EOS]
    return [
        prefix
        for length in range(MAX_LENGTH)
        for prefix in itertools.product(open_tokens, repeat=length)
    ]


def sequences():
    ended = [(*prefix, EOS) for prefix in prefixes()]
    cut = [s for s in itertools.product(range(VOCABULARY), repeat=MAX_LENGTH) if EOS not in s]
    return ended + cut


def penalties(regularizer, policy, reference):
    """Token penalties [prefixes, V] and divergences [prefixes] of all states."""
    rows = torch.arange(len(policy)).repeat_interleave(VOCABULARY)
    actions = torch.arange(VOCABULARY).repeat(len(policy))
    if isinstance(reference, list):
        chosen = [each[rows] for each in reference]
    else:
        chosen = reference[rows]
    penalty = regularizer(policy[rows], chosen, actions)
    table = penalty.token.view(len(policy), VOCABULARY)
    return table, penalty.divergence.view(len(policy), VOCABULARY)[:, 0]


def expected_estimator(regularizer, policy, reference, rewards, shift=0.0):
    """Exact expectation of sum_t grad log pi(a_t) (R - beta sum of penalties from t on)."""
    row_of = {prefix: row for row, prefix in enumerate(prefixes())}
    token, _ = penalties(regularizer, policy, reference)
    policy = policy.clone().requires_grad_()
    log_pi = policy.log_softmax(-1)
    surrogate = 0.0
    for sequence, reward in zip(sequences(), rewards, strict=True):
        rows = [row_of[sequence[:t]] for t in range(len(sequence))]
        log_probs = log_pi[rows, list(sequence)]
        phi = token[rows, list(sequence)] + shift
        to_go = reward - BETA * phi.flip(0).cumsum(0).flip(0)
        surrogate = surrogate + log_probs.sum().exp().detach() * (log_probs * to_go).sum()
    return torch.autograd.grad(surrogate, policy)[0]


def gradients(regularizer, policy, reference, rewards, shift=0.0):
    """Gradient of the objective, and the expected policy-gradient estimator, both exact."""
    row_of = {prefix: row for row, prefix in enumerate(prefixes())}
    estimated = expected_estimator(regularizer, policy, reference, rewards, shift)
    policy = policy.clone().requires_grad_()
    _, divergence = penalties(regularizer, policy, reference)
    log_pi = policy.log_softmax(-1)
    objective = 0.0
    for sequence, reward in zip(sequences(), rewards, strict=True):
        rows = [row_of[sequence[:t]] for t in range(len(sequence))]
        log_probs = log_pi[rows, list(sequence)]
        probability = log_probs.sum().exp()
        objective = objective + probability * (reward - BETA * divergence[rows].sum())
    exact = torch.autograd.grad(objective, policy)[0]
    return exact, estimated


GRADIENT_FORMS = [
    KLDivergence("exact"),
    *[FDivergence(name, 0.4, "gradient") for name in ("rkl", "fkl", "js", "alpha", "tv", "chi")],
]


def world(rng):
    states = len(prefixes())
    policy, first, second = torch.randn(3, states, VOCABULARY, generator=rng, dtype=torch.float64)
    rewards = torch.randn(len(sequences()), generator=rng, dtype=torch.float64)
    return policy, first, second, rewards


@pytest.mark.parametrize(
    "regularizer", GRADIENT_FORMS, ids=lambda r: f"{type(r).__name__}-{r.name}"
)
def test_estimator_is_unbiased(regularizer, rng):
    policy, reference, _, rewards = world(rng)
    exact, estimated = gradients(regularizer, policy, reference, rewards)
    torch.testing.assert_close(estimated, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "regularizer", GRADIENT_FORMS, ids=lambda r: f"{type(r).__name__}-{r.name}"
)
def test_estimator_is_unbiased_for_two_references(regularizer, rng):
    policy, first, second, rewards = world(rng)
    both = MultiReference(regularizer, [0.3, 0.7])
    exact, estimated = gradients(both, policy, [first, second], rewards)
    torch.testing.assert_close(estimated, exact, rtol=1e-9, atol=1e-12)


def test_another_shift_is_biased(rng):
    policy, reference, _, rewards = world(rng)
    exact, estimated = gradients(KLDivergence("exact"), policy, reference, rewards, shift=0.1)
    assert (estimated - exact).abs().max() > 1e-3


def test_value_form_of_the_forward_kl_is_biased(rng):
    policy, reference, _, rewards = world(rng)
    exact, estimated = gradients(FDivergence("fkl", form="value"), policy, reference, rewards)
    assert (estimated - exact).abs().max() > 1e-3


def test_estimator_is_unbiased_for_transport(rng):
    """The divergence is the result of an iteration: differentiate the objective numerically."""
    policy, reference, _, rewards = world(rng)
    embeddings = torch.randn(VOCABULARY, 2, generator=rng, dtype=torch.float64)
    transport = SinkhornDivergence(embeddings, 2, epsilon=0.3, max_iter=5000, tol=1e-11)
    row_of = {prefix: row for row, prefix in enumerate(prefixes())}

    def objective(table):
        _, divergence = penalties(transport, table, reference)
        log_pi = table.log_softmax(-1)
        total = 0.0
        for sequence, reward in zip(sequences(), rewards, strict=True):
            rows = [row_of[sequence[:t]] for t in range(len(sequence))]
            probability = log_pi[rows, list(sequence)].sum().exp()
            total = total + probability * (reward - BETA * divergence[rows].sum())
        return total

    exact = torch.zeros_like(policy)
    for index in itertools.product(range(len(policy)), range(VOCABULARY)):
        step = torch.zeros_like(policy)
        step[index] = 1e-5
        exact[index] = (objective(policy + step) - objective(policy - step)) / 2e-5
    estimated = expected_estimator(transport, policy, reference, rewards)
    torch.testing.assert_close(estimated, exact, rtol=1e-4, atol=1e-7)
