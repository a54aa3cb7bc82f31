"""Sampling: exact distributions, independence of the company a prompt keeps, and stopping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dschat.rollout.generation import generate, sample_by_inverse_cdf, uniform_numbers
from scipy import stats
from small_models import END, padded, request_for


@pytest.fixture(scope="module")
def model(tiny_model_dir: Any) -> Any:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    # A random model is near uniform: sharper logits make mistakes visible.
    loaded.lm_head.weight.data *= 8
    return loaded


def sample(model: Any, prompts: list[list[int]], uniform: Any, limit: int = 6, t: float = 0.8):
    return generate(model, request_for(padded(prompts), uniform, limit, t))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_have_the_tempered_softmaxs_frequencies(temperature: float) -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -torch.inf, 1.0])
    n = 20_000
    uniform = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tokens = sample_by_inverse_cdf(logits.expand(n, -1), uniform, temperature)
    counts = torch.bincount(tokens, minlength=5)
    assert counts[3] == 0
    expected = (logits / temperature).softmax(0)[[0, 1, 2, 4]].double()
    test = stats.chisquare(counts[[0, 1, 2, 4]].numpy(), (expected / expected.sum() * n).numpy())
    assert test.pvalue > 1e-4


def test_the_ends_of_the_unit_interval_give_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for u, token in ((0.0, 1), (0.4999999, 1), (0.5, 2), (1 - 2**-53, 2)):
        assert sample_by_inverse_cdf(logits, torch.tensor([u], dtype=torch.float64), 1.0) == token


def test_only_the_likeliest_tokens_with_top_k() -> None:
    # Closed form: of 1, 4, 2 and 3 the two likeliest have 4/7 and 3/7.
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).log()
    for u, token in ((0.0, 1), (4 / 7 - 1e-6, 1), (4 / 7 + 1e-6, 3), (1 - 2**-53, 3)):
        uniform = torch.tensor([u], dtype=torch.float64)
        assert sample_by_inverse_cdf(logits, uniform, 1.0, top_k=2) == token
    u = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = logits.expand(500, -1)
    assert torch.equal(
        sample_by_inverse_cdf(rows, u, 0.8, top_k=9), sample_by_inverse_cdf(rows, u, 0.8)
    )
    assert sample_by_inverse_cdf(rows, u, 0.8, top_k=1).unique().tolist() == [1]


def test_responses_with_top_k(model: Any) -> None:
    rows = padded([[20, 21, 22]] * 400)
    uniform = uniform_numbers(400, 1, seed=1, step=0)
    found = generate(model, request_for(rows, uniform, 1, top_k=3))
    likeliest = model(input_ids=rows[0][:1]).logits[0, -1].topk(3).indices
    assert {row[0] for row in found} == set(likeliest.tolist())


@pytest.mark.parametrize("vocabulary", [200, 2047, 2048, 5001])
def test_a_token_is_where_the_cumulative_probability_passes_the_number(vocabulary: int) -> None:
    draw = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(300, vocabulary, generator=draw) * 4
    impossible = torch.rand(vocabulary, generator=draw) < 0.4
    impossible[-vocabulary // 3 :] = True
    logits[:, impossible] = -torch.inf
    uniform = torch.rand(300, generator=draw, dtype=torch.float64)
    uniform[:20], uniform[20:40] = 0.0, 1 - 2**-53
    tokens = sample_by_inverse_cdf(logits, uniform, 0.8)
    assert not impossible[tokens].any()
    weights = np.exp(logits.numpy().astype(np.float64) / 0.8)
    cumulative = weights.cumsum(axis=1) / weights.sum(axis=1, keepdims=True)
    rows, places = np.arange(300), tokens.numpy()
    before = np.where(places > 0, cumulative[rows, places - 1], 0.0)
    # The logits are float32: their exponentials are some 1e-6 off.
    assert (before <= uniform.numpy() + 1e-6).all()
    assert (cumulative[rows, places] >= uniform.numpy() - 1e-6).all()


def test_every_step_and_seed_has_numbers_of_its_own() -> None:
    whole = uniform_numbers(6, 4, seed=5, step=2)
    assert torch.equal(whole, uniform_numbers(6, 4, seed=5, step=2))
    assert len(whole.unique()) == 24
    assert not torch.equal(whole, uniform_numbers(6, 4, seed=5, step=3))
    assert not torch.equal(whole, uniform_numbers(6, 4, seed=6, step=2))


def test_a_response_does_not_depend_on_its_batch(model: Any) -> None:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    uniform = uniform_numbers(3, 6, seed=0, step=0)
    together = sample(model, prompts, uniform)
    alone = [sample(model, [p], uniform[i : i + 1])[0] for i, p in enumerate(prompts)]
    assert together == alone


def test_sequences_follow_the_models_own_probabilities(model: Any) -> None:
    # Two-token responses to one prompt: frequencies of the first token against the model's.
    n, prompt = 4000, [20, 21, 22]
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].detach()
    expected = (logits / 0.8).softmax(0).double()
    responses = sample(model, [prompt] * n, uniform_numbers(n, 1, seed=1, step=0), limit=1)
    counts = torch.bincount(torch.tensor([r[0] for r in responses]), minlength=len(expected))
    common = expected > 10 / n
    observed = [*counts[common].tolist(), int(counts[~common].sum())]
    wanted = [*expected[common].tolist(), 1.0 - float(expected[common].sum())]
    assert stats.chisquare(observed, [n * p for p in wanted]).pvalue > 1e-4


def test_a_response_ends_with_the_end_token_or_at_the_limit(model: Any) -> None:
    uniform = uniform_numbers(40, 12, seed=2, step=0)
    responses = sample(model, [[5, 6, 7]] * 40, uniform, limit=12, t=3.0)
    for response in responses:
        assert END not in response[:-1]
        assert response[-1] == END or len(response) == 12
    assert any(r[-1] == END for r in responses)


def test_a_models_own_generation_settings_do_not_bend_the_policy(model: Any) -> None:
    uniform = uniform_numbers(8, 6, seed=3, step=0)
    before = sample(model, [[5, 6, 7]] * 8, uniform)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.top_k = 1
    model.generation_config.bad_words_ids = [[t] for t in range(4, 100)]
    try:
        assert sample(model, [[5, 6, 7]] * 8, uniform) == before
        assert model.generation_config.repetition_penalty == 5.0
    finally:
        model.generation_config.repetition_penalty = None
        model.generation_config.top_k = None
        model.generation_config.bad_words_ids = None


@pytest.mark.parametrize("uniform", [None, uniform_numbers(4, 6, seed=5, step=0)])
def test_tokens_beyond_the_shared_vocabulary_are_never_taken(model: Any, uniform: Any) -> None:
    rows = padded([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16]])
    free = generate(model, request_for(rows, uniform, 6))
    assert max(t for response in free for t in response) >= 60, "the limit must matter"
    cut = generate(model, request_for(rows, uniform, 6, vocabulary=60))
    assert max(t for response in cut for t in response) < 60
