"""The vLLM backend against a stand-in for the package that keeps its public signatures.

`test_vllm_for_real.py` runs the package itself where it is installed.
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.lora import add_lora
from dschat.rollout.backends.in_place import make_backend
from dschat.rollout.backends.whole_weights import whole_weights
from dschat.rollout.generation import GenerationRequest, uniform_numbers
from small_models import END, PAD, VOCABULARY, request_for, small_model
from transformers import AutoConfig, AutoModelForCausalLM

LIMIT = 3


@dataclass
class SamplingParams:
    """The fields that are used, by vLLM's names and defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    allowed_token_ids: list[int] | None = None


class LLM:
    """Answers greedily from a model of its own, which only `reload_weights` gives real weights."""

    made: list[LLM] = []  # noqa: RUF012
    broken = False

    def __init__(self, model: str, **options: Any) -> None:
        self.options, self.calls, self.asked = options, [], []
        self.config = json.loads((Path(model) / "config.json").read_text())
        self.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).eval()
        LLM.made.append(self)

    def collective_rpc(self, method: str, timeout: float | None = None, args: tuple = (),
                       kwargs: dict[str, Any] | None = None) -> list[None]:  # fmt: skip
        assert method == "reload_weights"
        assert kwargs is not None
        weights = dict(kwargs["weights_iterator"])
        self.calls.append("weights")
        if not LLM.broken:
            self.model.load_state_dict(weights, strict=True)
        return [None]

    def sleep(self, level: int = 1) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.calls.append(f"wake {tags}")

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return True

    @torch.no_grad()
    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: Any,
                 use_tqdm: bool = True) -> list[Any]:  # fmt: skip
        self.calls.append("generate")
        every = isinstance(sampling_params, list)
        params = sampling_params if every else [sampling_params] * len(prompts)
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, params, strict=True)]

    def _one(self, prompt: list[int], params: SamplingParams) -> Any:
        self.asked.append(params)
        assert self.options["logprobs_mode"] == "processed_logprobs"
        text: list[int] = []
        told: list[Any] = []
        while len(text) < (params.max_tokens or 0):
            logits = self.model(input_ids=torch.tensor([prompt + text])).logits[0, -1]
            logits = logits[: len(params.allowed_token_ids or logits)]
            text.append(int(logits.argmax()))
            processed = (logits / (params.temperature or 1.0)).log_softmax(-1)
            told.append({text[-1]: SimpleNamespace(logprob=float(processed[text[-1]]))})
            if text[-1] in (params.stop_token_ids or []):
                break
        logprobs = None if params.logprobs is None else told
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=text, logprobs=logprobs)])


@pytest.fixture
def fake(monkeypatch: Any) -> type[LLM]:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    LLM.made, LLM.broken = [], False
    return LLM


def request(
    greedy: bool = False, vocabulary: int = 50, temperature: float = 0.8
) -> GenerationRequest:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14], [5, 6, 7]]
    ids = torch.tensor([[PAD] * (5 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (5 - len(p)) + [1] * len(p) for p in prompts])
    uniform = None if greedy else uniform_numbers(4, LIMIT, seed=0, step=0)
    return request_for((ids, mask), uniform, LIMIT, temperature, vocabulary)


def engine_around(model: Any, steps: int = 0) -> Any:
    return SimpleNamespace(module=SimpleNamespace(model=model), global_steps=steps)


def test_without_the_package_one_line_says_what_to_do(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package vllm.*pip install vllm") as caught:
        make_backend("vllm", 20, 0.3)
    assert "\n" not in str(caught.value)


def test_weights_are_sent_when_they_have_changed_and_only_then(fake: Any) -> None:
    backend, native = make_backend("vllm", 20, 0.25), make_backend("native", 20, 0.3)
    assert not LLM.made, "the engine is made when it is needed"
    model = small_model("llama")
    for steps, change in ((0, 0.0), (0, 0.0), (1, 0.4), (1, 0.0), (5, 0.4)):
        with torch.no_grad():
            model.lm_head.weight.add_(change * torch.randn(model.lm_head.weight.shape))
        engine = engine_around(model, steps)
        assert backend(engine, request(greedy=True)) == native(engine, request(greedy=True))
    (llm,) = LLM.made
    assert llm.calls.count("weights") == 3
    sent = ["weights", "reset", "generate"]
    assert llm.calls == [*sent, "reset", "generate", *sent, "reset", "generate", *sent]
    assert llm.options["load_format"] == "dummy"
    assert llm.options["max_model_len"] == 20
    assert llm.options["gpu_memory_utilization"] == 0.25
    assert llm.options["generation_config"] == "vllm"
    assert llm.options["dtype"] == "float32"


def test_each_response_has_its_own_seed_and_the_plain_softmax(fake: Any) -> None:
    backend, engine = make_backend("vllm", 20, 0.3), engine_around(small_model("llama"))
    asked = request()
    backend(engine, asked)
    sent = LLM.made[0].asked
    assert [p.seed for p in sent] == asked.seeds()
    for p in sent:
        assert (p.temperature, p.top_p, p.top_k, p.min_p) == (0.8, 1.0, 0, 0.0)
        assert (p.max_tokens, p.stop_token_ids, p.ignore_eos) == (LIMIT, [END], True)
        assert p.allowed_token_ids == list(range(50))
    backend(engine, request(greedy=True, vocabulary=VOCABULARY))
    assert all(
        (p.temperature, p.seed, p.allowed_token_ids, p.logprobs) == (0.0, None, None, None)
        for p in LLM.made[0].asked[4:]
    )
    assert backend.logprobs is None, "nothing is drawn"


def test_a_grown_vocabulary_and_tied_weights_reach_the_engine(fake: Any) -> None:
    model = small_model("gemma")
    assert model.config.tie_word_embeddings
    model.resize_token_embeddings(VOCABULARY + 3)
    engine = engine_around(model)
    backend, native = make_backend("vllm", 20, 0.3), make_backend("native", 20, 0.3)
    assert backend(engine, request(greedy=True)) == native(engine, request(greedy=True))
    (llm,) = LLM.made
    assert llm.config["vocab_size"] == VOCABULARY + 3
    # On a CPU a reload of tied weights would leave vLLM's output layer as it was.
    assert llm.config["tie_word_embeddings"] is False
    assert model.config.tie_word_embeddings


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_are_sent_merged_and_stay_what_they_were(fake: Any, kind: str) -> None:
    layers = {"llama": "layers.", "gpt2": "h."}[kind]
    model = add_lora(small_model(kind), 4, layers, only_optimize_lora=True).eval()
    draw = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = dict(whole_weights(model))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    plain = small_model(kind)
    plain.load_state_dict(found, strict=kind != "gpt2")  # its output layer is tied
    ids = request().input_ids
    with torch.no_grad():
        expected, merged = model(input_ids=ids).logits, plain(input_ids=ids).logits
        assert (small_model(kind)(input_ids=ids).logits - expected).abs().max() > 0.1
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocabulary", [50, VOCABULARY])
def test_the_log_probabilities_are_those_of_the_tempered_policy(fake: Any, vocabulary: int) -> None:
    """At the temperature and among the tokens that may be drawn, by a pass of transformers."""
    backend, model = make_backend("vllm", 20, 0.3), small_model("llama")
    asked = request(vocabulary=vocabulary)
    responses = backend(engine_around(model), asked)
    assert backend.logprobs is not None
    for prompt, response, told in zip(asked.prompts(), responses, backend.logprobs, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
        drawn_from = logits[len(prompt) - 1 : -1, :vocabulary] / 0.8
        losses = torch.nn.functional.cross_entropy(
            drawn_from, torch.tensor(response), reduction="none"
        )
        torch.testing.assert_close(torch.tensor(told), -losses, atol=1e-5, rtol=1e-5)


def test_on_a_gpu_it_sleeps_while_the_policy_learns(fake: Any) -> None:
    def calls_of(keep_memory: bool) -> list[str]:
        backend: Any = make_backend("vllm", 20, 0.3, keep_memory=keep_memory)
        model = small_model("llama")
        # As a model on a GPU is seen by the backend; its own passes stay where they are.
        seen = SimpleNamespace(device=torch.device("cuda"), dtype=model.dtype, config=model.config)
        backend._untie = lambda model: False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dschat.rollout.backends.vllm_engine.plain_model", lambda m: seen)
            patch.setattr(
                "dschat.rollout.backends.vllm_engine._configuration", lambda m, untied: model.config
            )
            for steps in (0, 0, 1):
                backend(engine_around(model, steps), request())
        options = LLM.made[-1].options
        assert options.get("enable_sleep_mode", False) is not keep_memory
        return LLM.made[-1].calls

    once = ["weights", "reset", "generate", "sleep 2"]
    awake = ["wake ['weights']", "weights", "wake ['kv_cache']", "reset", "generate", "sleep 2"]
    assert calls_of(False) == [*once, *awake, *awake], "level 2 forgets the weights"
    kept = ["weights", "reset", "generate"]
    assert calls_of(True) == [*kept, "reset", "generate", *kept]


def test_the_ranks_of_an_engine_run_the_batch_of_all(fake: Any, monkeypatch: Any) -> None:
    """Two ranks share an engine; what each is told of the other comes from the test."""
    engine, whole = engine_around(small_model("llama")), request()
    alone = make_backend("vllm", 20, 0.3)
    expected = alone(engine, whole)
    monkeypatch.setattr("dschat.runtime.distributed.world_size", lambda: 2)
    group = object()
    monkeypatch.setattr(torch.distributed, "new_subgroups", lambda size: (group, [group]))
    rows = [slice(0, 1), slice(1, 4)]
    shares = [
        GenerationRequest(
            whole.input_ids[r], whole.attention_mask[r], whole.uniform[r], whole.settings
        )  # type: ignore[index]
        for r in rows
    ]

    def gather(found: list[Any], own: Any, group: Any) -> None:
        found[:] = [(share.prompts(), share.seeds()) for share in shares]
        assert own in found

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for rank, (part, share) in enumerate(zip(rows, shares, strict=True)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group, rank=rank: rank)
        backend = make_backend("vllm", 20, 0.3, tensor_parallel_size=2)
        assert backend(engine, share) == expected[part]
        assert backend.logprobs == alone.logprobs[part]  # type: ignore[index]
        llm = LLM.made[-1]
        assert llm.options["tensor_parallel_size"] == 2
        assert [p.seed for p in llm.asked] == whole.seeds(), "all ranks draw the same"
    with pytest.raises(UserError, match="tensor_parallel_size 3: expected a divisor .* ranks, 2"):
        make_backend("vllm", 20, 0.3, tensor_parallel_size=3)


def test_errors_of_the_package_are_one_line(fake: Any, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no room\nfor keys")

    engine = engine_around(small_model("llama"))
    with monkeypatch.context() as patch:
        patch.setattr(LLM, "collective_rpc", fail)
        with pytest.raises(UserError, match="does not take the weights.*no room for keys"):
            make_backend("vllm", 20, 0.3)(engine, request())
    monkeypatch.setattr(LLM, "__init__", fail)
    with pytest.raises(UserError, match="cannot be started.*no room for keys.*backend native"):
        make_backend("vllm", 20, 0.3)(engine, request())


def test_a_temperature_that_vllm_would_change_is_refused(fake: Any) -> None:

    backend, engine = make_backend("vllm", 20, 0.3), engine_around(small_model("llama"))
    with pytest.raises(UserError, match="--temperature 0.001.*0.01 or above"):
        backend(engine, request(temperature=0.001))
    backend(engine, request(greedy=True, temperature=0.001))


def test_closing_lets_the_engine_go(fake: Any) -> None:
    backend: Any = make_backend("vllm", 20, 0.3)
    backend.close()  # before there is one
    backend(engine_around(small_model("llama")), request())
    gone = weakref.ref(LLM.made.pop())
    backend.close()
    assert gone() is None
