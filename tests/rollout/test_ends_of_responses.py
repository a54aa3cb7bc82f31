"""A response stops at the first of its model's ends, whoever samples it and whoever looks at it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.data.ends import ends_of
from dschat.data.prompts import PromptExample
from dschat.models.loading import load_causal_lm, load_tokenizer
from dschat.models.output_layer import tokens_of
from dschat.models.policy import PolicyModel
from dschat.models.references import Reference
from dschat.online.answer_accuracy import prompt_results
from dschat.online.references.load_references import share_vocabulary
from dschat.regularization.transport.support import union_of_tokens
from dschat.rollout.backends.in_place import make_backend
from dschat.rollout.experience import make_rollout
from dschat.rollout.generation import GenerationSettings, uniform_numbers
from dschat.rollout.sampler import Sampler
from dschat.scoring.scoring import PenaltyScorer
from dschat.settings.rollout.backends import BACKENDS
from small_models import PAD, VOCABULARY, request_for, small_model
from tiny import tiny_config

ENDS, LIMIT = (1, 4, 7, PAD), 16
IN_PLACE = [name for name in BACKENDS if name != "vllm"]


def until(response: list[int], ends: tuple[int, ...]) -> list[int]:
    found = [i for i, token in enumerate(response) if token in ends]
    return response[: found[0] + 1] if found else response


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("greedy", [False, True])
def test_every_backend_stops_at_each_of_the_ends(name: str, greedy: bool) -> None:
    model = small_model("llama")
    ids = torch.randint(2, VOCABULARY, (24, 5), generator=torch.Generator().manual_seed(3))
    uniform = None if greedy else uniform_numbers(24, LIMIT, seed=0, step=0)
    rows = ids, torch.ones_like(ids)
    last = VOCABULARY - 1
    endless = request_for(rows, uniform, LIMIT, vocabulary=last, ends=(last,))
    engine = SimpleNamespace(module=SimpleNamespace(model=model))
    whole = make_backend("native", 70, 0.3)(engine, endless)
    assert {len(r) for r in whole} == {LIMIT}
    asked = request_for(rows, uniform, LIMIT, vocabulary=last, ends=ENDS)
    found = make_backend(name, 70, 0.3)(engine, asked)
    assert found == [until(r, ENDS) for r in whole]
    assert len({r[-1] for r in found if len(r) < LIMIT}) > 1, "several ends should matter"


def test_a_rollout_has_ended_at_any_of_them() -> None:
    responses = [[9, 1], [9, 4], [9, 9], [4], []]
    texts, nothing = [""] * 5, [{} for _ in range(5)]
    found = make_rollout(
        [[5]] * 5, responses, texts, texts, nothing, (1, 4), PAD, torch.device("cpu")
    )
    assert found.ended.tolist() == [True, True, False, True, False]
    assert found.dropped.tolist() == [False, False, False, True, True]


def test_all_ends_are_in_the_support_of_the_published_penalty() -> None:
    logits = torch.zeros(1, 20)
    logits[0, :3] = 5.0
    found = union_of_tokens([logits], [torch.tensor([2])], 2, excluded=9, included=(4, 9, 11))
    assert set(found.tolist()) >= {4, 9, 11}


@pytest.fixture
def padded_folder(tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """Ends 1 and "<unk>"; 56 rows without a token, which have nearly all of the probability."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(tiny_tokenizer, vocab_size=256, initializer_range=0.3))
    with torch.no_grad():  # the hidden state's mean lies along these rows
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight[200:] *= 5
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    ends = json.dumps({"eos_token_id": [1, tiny_tokenizer.unk_token_id, 230]})
    (tmp_path / "generation_config.json").write_text(ends)
    return tmp_path


def prompts_of(tokenizer: Any) -> list[PromptExample]:
    texts = ["Human: What", "The quick brown fox", "kettle", "egg " * 5] * 4
    return [PromptExample(tokenizer(t)["input_ids"], t, {"answer": "#### 1"}) for t in texts]


def test_ids_without_a_token_are_never_sampled_and_have_no_probability(
    padded_folder: Path,
) -> None:
    tokenizer = load_tokenizer(str(padded_folder))
    assert ends_of(tokenizer).ids == (1, 3), "row 230 is no token"
    assert tokens_of(tokenizer) == 200
    model = load_causal_lm(str(padded_folder), tokenizer, torch.float32).eval()
    prompts = prompts_of(tokenizer)
    sampler = Sampler(tokenizer, GenerationSettings.of(tokenizer, 12, 1.0))
    sampled = sampler.sample(model, prompts, sampler.numbers(len(prompts)))
    assert max(map(max, sampled)) < 200
    assert {r[-1] for r in sampled if len(r) < 12} <= {1, 3}
    results = prompt_results(model, prompts, sampler, 1)
    assert all(r.length <= 12 for r in results)
    # Policy and reference: a distribution over the tokens alone, the one that is sampled from.
    policy, reference = PolicyModel(model, 1.0).eval(), PolicyModel(model, 1.0)
    frozen = Reference(reference, torch.device("cpu"))
    share_vocabulary(policy, [frozen], tokens_of(tokenizer))
    assert policy.output_layer.vocabulary_size == frozen.vocabulary_size == 200
    from dschat.regularization import KLDivergence

    texts = [""] * len(prompts)
    ids = [p.ids for p in prompts]
    pad, cpu = tokenizer.pad_token_id, torch.device("cpu")
    rollout = make_rollout(ids, sampled, texts, texts, [{}] * len(ids), (1, 3), pad, cpu)
    (scores,), _, _ = PenaltyScorer(KLDivergence("exact"), [frozen], 1.0)(policy, [rollout])
    with torch.no_grad():
        logits = model(
            input_ids=rollout.input_ids,
            attention_mask=rollout.attention_mask,
            position_ids=(rollout.attention_mask.cumsum(1) - 1).clamp(min=0),
        ).logits
    length = rollout.response_mask.shape[1]
    before = logits[:, -length - 1 : -1]
    assert float(before.softmax(-1)[..., 200:].sum(-1).mean()) > 0.3, "they should matter"
    expected = before[..., :200].log_softmax(-1).gather(2, rollout.actions.unsqueeze(2)).squeeze(2)
    expected = expected[rollout.response_mask]
    torch.testing.assert_close(scores.logprobs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.reference_logprobs, expected, atol=1e-5, rtol=1e-5)
