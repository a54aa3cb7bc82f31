"""Generation backends that run the model itself: the same tokens as transformers' `generate`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.data.prompts import rank_share
from dschat.errors import UserError
from dschat.rollout.backends.in_place import make_backend
from dschat.rollout.generation import GenerationRequest, sample_by_inverse_cdf, uniform_numbers
from dschat.settings.rollout.backends import BACKENDS
from small_models import END, VOCABULARY, padded, request_for, small_model
from transformers.generation import GenerationMixin

LIMIT = 16
IN_PLACE = [name for name in BACKENDS if name != "vllm"]


def request(greedy: bool = False, vocabulary: int = 50) -> GenerationRequest:
    """Ten prompts of 1 to 30 tokens, some of them alike, padded on the left."""
    draw = torch.Generator().manual_seed(1)
    own = [torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in (3, 30, 7, 1, 24)]
    chosen = [own[i] for i in (0, 1, 1, 2, 2, 1, 3, 0, 4, 4)]
    uniform = None if greedy else uniform_numbers(len(chosen), LIMIT, seed=0, step=0)
    return request_for(padded(chosen), uniform, LIMIT, vocabulary=vocabulary)


def engine_around(model: Any) -> Any:
    return SimpleNamespace(module=SimpleNamespace(model=model))


def sample(name: str, model: Any, asked: GenerationRequest) -> list[list[int]]:
    return make_backend(name, 70, 0.3)(engine_around(model), asked)


@torch.no_grad()
def token_by_token(model: Any, asked: GenerationRequest) -> list[list[int]]:
    """No cache, no padding, no batch: what every backend should give."""
    found, s = [], asked.settings
    for row, prompt in enumerate(asked.prompts()):
        text = list(prompt)
        for step in range(LIMIT):
            logits = model(input_ids=torch.tensor([text])).logits[
                :, -1, : asked.settings.vocabulary_size
            ]
            token = int(logits.argmax())
            if asked.uniform is not None:
                number = asked.uniform[row : row + 1, step]
                token = int(sample_by_inverse_cdf(logits, number, s.temperature))
            text.append(token)
            if token == END:
                break
        found.append(text[len(prompt) :])
    return found


@pytest.mark.parametrize("greedy", [False, True])
def test_every_backend_takes_the_tokens_of_one_forward_pass_each(greedy: bool) -> None:
    model, asked = small_model("llama"), request(greedy)
    expected = token_by_token(model, asked)
    for name in IN_PLACE:
        assert sample(name, model, asked) == expected, name
    if not greedy:
        assert len({len(r) for r in expected}) > 1, "responses should end at different lengths"
    free = token_by_token(model, request(greedy, VOCABULARY))
    assert max(t for r in free for t in r) >= 50, "the vocabulary's limit must matter"


def test_the_transformers_backend_goes_through_generate(monkeypatch: Any) -> None:
    calls: list[str] = []
    plain = GenerationMixin.generate

    def watched(model: Any, *args: Any, **options: Any) -> Any:
        calls.append(type(model).__name__)
        return plain(model, *args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    sample("native", small_model("llama"), request())
    assert calls == []
    sample("transformers", small_model("llama"), request())
    assert calls == ["LlamaForCausalLM"]


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_models_own_settings_neither_bend_the_policy_nor_are_lost(name: str) -> None:
    model = small_model("llama")
    expected = sample(name, model, request())
    own = model.generation_config
    own.repetition_penalty, own.top_k, own.max_new_tokens, own.eos_token_id = 5.0, 1, 3, 7
    before = own.to_dict()
    assert sample(name, model, request()) == expected
    assert model.generation_config.to_dict() == before
    assert model.config._attn_implementation == "sdpa"


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(UserError, match="'sglang'.*native, transformers, vllm"):
        make_backend("sglang", 10, 0.3)


def test_seeds_belong_to_the_place_not_to_the_rank() -> None:
    ids = torch.ones(2, 1, dtype=torch.int64)

    def seeds(rank: int, ranks: int, step: int = 4) -> list[int] | None:
        numbers = uniform_numbers(4, 6, 5, step)[rank_share(4, rank, ranks, 1)]
        rows = ids[:1].expand(len(numbers), 1)
        return request_for((rows, rows), numbers, 6).seeds()

    whole = seeds(0, 1)
    assert whole is not None
    assert seeds(0, 2) == whole[0::2]
    assert seeds(1, 2) == whole[1::2]
    assert len({*whole, *(seeds(0, 1, step=5) or [])}) == 8
    assert all(0 <= seed < 2**53 for seed in whole)
    assert request_for((ids, ids), None, 6).seeds() is None
