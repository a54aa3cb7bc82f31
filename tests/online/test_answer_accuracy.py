"""Accuracy and pass@k: the estimators by enumeration, the loop with models of known answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.online.answer_accuracy import (
    PromptResult,
    prompt_results,
    summarise,
)
from dschat.rollout.generation import GenerationRequest, GenerationSettings, generate
from dschat.rollout.sampler import Sampler
from small_models import padded
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import GenerationMixin


def result(index: int, correct: bool, sampled: int = 0, of: int = 0) -> PromptResult:
    return PromptResult(index, "", correct, 4 + index, correct, of, sampled, 5 * of, sampled)


def sampler(tokenizer: Any, limit: int, temperature: float = 1.0, **options: Any) -> Sampler:
    return Sampler(tokenizer, GenerationSettings.of(tokenizer, limit, temperature), **options)


def test_a_summary_worked_out_by_hand() -> None:
    results = [result(0, True, 2, 4), result(1, False, 0, 4), result(2, True, 4, 4)]
    report = summarise(results, ks=(1, 2))
    assert (report.prompts, report.correct, report.samples) == (3, 2, 4)
    assert report.accuracy == pytest.approx(2 / 3)
    # 2 right of 4: 1 - C(2, 2) / C(4, 2) = 5/6.
    assert report.pass_at == pytest.approx({1: (0.5 + 0 + 1) / 3, 2: (5 / 6 + 0 + 1) / 3})
    assert (report.length, report.ended) == (5.0, pytest.approx(2 / 3))
    assert (report.sampled_length, report.sampled_ended) == (5.0, 0.5)
    assert report == summarise(results[::-1], ks=(1, 2))
    flat = report.metrics()
    assert flat["pass_at_2"] == report.pass_at[2]
    assert flat["accuracy_low"] < flat["accuracy"] < flat["accuracy_high"]
    assert all(isinstance(value, int | float) for value in flat.values())


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="pass@4 .* 2 samples"):
        summarise([result(0, True, 1, 2)], ks=(1, 4))
    with pytest.raises(UserError, match="no results"):
        summarise([])
    with pytest.raises(UserError, match="no prompts"):
        prompt_results(None, [], sampler(Words(), 4))


def example(ids: list[int], answer: str) -> PromptExample:
    return PromptExample(ids, str(ids), {"question": "?", "answer": f"#### {answer}"})


END, PAD, RIGHT, WRONG = 0, 1, 2, 3


class Coin(torch.nn.Module, GenerationMixin):
    """Answers with the token 2 or 3 at the chance its last prompt token says, and then ends."""

    main_input_name = "input_ids"
    _is_stateful = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(is_encoder_decoder=False)
        self.generation_config = GenerationConfig()

    def generate(self, input_ids: torch.Tensor, logits_processor: Any, **_: Any) -> torch.Tensor:
        assert not self.training
        chance = (input_ids[:, -1] - 4) / 10
        scores = torch.full((len(input_ids), 16), -torch.inf)
        scores[:, RIGHT], scores[:, WRONG] = chance.log(), (1 - chance).log()
        token = logits_processor(input_ids, scores).argmax(-1, keepdim=True)
        return torch.cat([input_ids, token, torch.full_like(token, END)], dim=1)


class Words:
    """The tokenizer of `Coin`."""

    pad_token_id, eos_token_id = PAD, END

    def __len__(self) -> int:
        return 16

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(16)}

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return ["".join({2: "<answer>1</answer>", 3: "no"}.get(i, "") for i in row) for row in rows]


def test_a_model_of_known_chances() -> None:
    chances = [0, 3, 8, 10] * 50
    prompts = [example([5] * (i % 7) + [4 + c], "1.0") for i, c in enumerate(chances)]
    model = Coin().train()
    results = prompt_results(model, prompts, sampler(Words(), 2, seed=3, batch_size=16), 20)
    assert model.training
    assert [r.index for r in results] == list(range(200))
    assert [r.correct for r in results] == [c > 5 for c in chances]
    assert {r.length for r in results} == {2}
    assert all(r.ended for r in results)
    for chance in (0, 3, 8, 10):
        of_chance = [r for r in results if chances[r.index] == chance]
        share = sum(r.sampled_correct for r in of_chance) / (20 * len(of_chance))
        # Four standard errors of 1,000 draws.
        assert share == pytest.approx(chance / 10, abs=4 * (0.25 / 1000) ** 0.5)
    report = summarise(results, ks=(1, 2))
    assert report.accuracy == 0.5
    # The chance of a right one in two: 1 - (1 - p)^2.
    assert report.pass_at[2] == pytest.approx((0 + 0.51 + 0.96 + 1) / 4, abs=0.03)


@pytest.fixture(scope="module")
def tiny_prompts(tiny_tokenizer: Any) -> list[PromptExample]:
    texts = ["Human: one?", "POST", "Human: What is the capital of France? Assistant:", "The quick"]
    return [
        PromptExample(tiny_tokenizer(text)["input_ids"], text, {"answer": "#### 1"})
        for text in texts
    ]


JUDGE = "dschat.online.answer_accuracy.answered_correctly"


def test_batches_and_ranks_do_not_change_results(
    tiny_model_dir: Path,
    tiny_tokenizer: Any,
    tiny_prompts: list[PromptExample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    monkeypatch.setattr(JUDGE, lambda response, *_: len(response) % 2 == 0)

    def measure(batch_size: int, rank: int = 0, world_size: int = 1) -> list[PromptResult]:
        drawn = sampler(tiny_tokenizer, 8, seed=5, batch_size=batch_size)
        return prompt_results(model, tiny_prompts, drawn, 3, rank, world_size)

    whole = measure(batch_size=4)
    assert measure(batch_size=1) == whole
    shares = [measure(batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted([*shares[0], *shares[1]], key=lambda r: r.index) == whole
    assert {r.samples for r in whole} == {3}


def test_responses_are_those_of_generate(
    tiny_model_dir: Path,
    tiny_tokenizer: Any,
    tiny_prompts: list[PromptExample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    seen: dict[str, list[str]] = {}

    def judge(response: str, row: dict[str, Any], _: Any) -> bool:
        seen.setdefault(row["name"], []).append(response)
        return False

    monkeypatch.setattr(JUDGE, judge)
    prompts = [PromptExample(p.ids, p.text, {"name": p.text}) for p in tiny_prompts]
    drawn = sampler(tiny_tokenizer, 8, 0.7, seed=5)
    report = summarise(prompt_results(model, prompts, drawn, 1), (1,))
    assert report.accuracy == report.pass_at[1] == 0.0
    uniform = drawn.numbers(4)
    for i, prompt in enumerate(prompts):
        rows = padded([prompt.ids])
        own = [
            generate(model, GenerationRequest(*rows, numbers, drawn.settings))[0]
            for numbers in (None, uniform[i : i + 1])
        ]
        assert seen[prompt.text] == tiny_tokenizer.batch_decode(own, skip_special_tokens=True)
