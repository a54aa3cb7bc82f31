"""Several references and policies side by side: figures against plain computation, whole output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.data.load import load_data
from dschat.data.prompts import PromptExample, build_prompts
from dschat.errors import UserError
from dschat.evaluation.multi_reference_comparison import MultiReferenceComparisonConfig, compare
from dschat.evaluation.multi_reference_output import metric_over_steps
from dschat.evaluation.multi_reference_report import of_kind
from dschat.example.arithmetic import write_datasets
from dschat.example.arithmetic_model import write_model
from dschat.online.answer_accuracy import PromptResult, summarise
from dschat.rollout.generation import (
    GenerationRequest,
    GenerationSettings,
    generate,
    uniform_numbers,
)
from small_models import padded
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS, TEMPERATURE, SEED = 6, 0.7, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    write_datasets(folder, 1, train_size=4, test_size=6)
    for seed, name in enumerate(("a", "b", "policy")):
        write_model(folder / name, seed)
    (folder / "run").mkdir()
    rows: list[dict[str, Any]] = [
        {"step": 0, "eval/accuracy": 0.25},
        {"step": 1, "penalty/log_ratio/ref_0": 0.1, "response_length": 20.0},
    ]
    (folder / "run/metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def settings(folder: Path, **changes: Any) -> MultiReferenceComparisonConfig:
    given: dict[str, Any] = {
        "references": [f"a={folder / 'a'}", f"b={folder / 'b'}"],
        "policies": [f"new={folder / 'policy'}"],
        "runs": [f"new={folder / 'run'}"],
        "dataset": [str(folder / "correct")],
        "kinds": ["additions=+", "subtractions=-"],
        "max_completion_length": TOKENS,
        "temperature": TEMPERATURE,
        "pass_k": [1, 2],
        "batch_size": 4,
        "seed": SEED,
        "output_dir": str(folder / "out"),
        **changes,
    }
    return MultiReferenceComparisonConfig(**given)


@torch.no_grad()
def plain_divergence(model: Any, reference: Any, prompts: Any, tokenizer: Any) -> float:
    """Mean over prompts of sum_t KL(model || reference), one response at a time, no padding."""
    uniform = uniform_numbers(len(prompts), TOKENS, SEED, step=0)
    total = 0.0
    for i, prompt in enumerate(prompts):
        settings = GenerationSettings.of(tokenizer, TOKENS, TEMPERATURE)
        rows = padded([prompt.ids])
        (response,) = generate(model, GenerationRequest(*rows, uniform[i : i + 1], settings))
        text = torch.tensor([prompt.ids + response])
        p, q = (
            (m(text).logits[0, len(prompt.ids) - 1 : -1].double() / TEMPERATURE).log_softmax(-1)
            for m in (model, reference)
        )
        total += float((p.exp() * (p - q)).sum())
    return total / len(prompts)


def test_the_comparison_says_what_plain_computation_says(folder: Path, capsys: Any) -> None:
    config = settings(folder)
    config.validate()
    assert compare(config).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "KL to a  KL to b" in shown
    found = json.loads((folder / "out/multi_reference_comparison.json").read_text())
    assert list(found) == ["a", "b", "new"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "a")
    data = load_data([str(folder / "correct")], "rl", "0,0,1", 1, str(folder / "data"))
    prompts, _ = build_prompts(data.eval, tokenizer, 64)
    models = [AutoModelForCausalLM.from_pretrained(folder / n).eval() for n in ("a", "b", "policy")]
    for report, model in zip(found.values(), models, strict=True):
        expected = [plain_divergence(model, r, prompts, tokenizer) for r in models[:2]]
        assert list(report["divergences"].values()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert report["overall"]["prompts"] == 6
        assert {name: kind["prompts"] for name, kind in report["kinds"].items()} == {
            "additions": 3,
            "subtractions": 3,
        }
    assert found["a"]["divergences"]["a"] == 0.0
    assert found["new"]["divergences"]["a"] > 1e-3


def test_a_kind_has_the_results_of_its_own_problems() -> None:
    answers = ["1+2=3\n#### 3", "5-4=1\n#### 1", "2+2=4\n#### 4"]
    prompts = [PromptExample([1], "", {"answer": answer}) for answer in answers]
    results = [
        PromptResult(i, "", correct, 4, True) for i, correct in enumerate((True, True, False))
    ]
    # The order of results is not that of prompts.
    kinds = {t: summarise(of_kind("kind", t, results[::-1], prompts)) for t in "+-"}
    assert (kinds["+"].correct, kinds["+"].prompts) == (1, 2)
    assert (kinds["-"].correct, kinds["-"].prompts) == (1, 1)
    with pytest.raises(UserError, match="--kinds products=x: .* no test problem"):
        of_kind("products", "x", results, prompts)


def test_a_metric_over_steps_skips_rows_without_it() -> None:
    rows = [{"step": 0, "m": None}, {"step": 1, "m": 0.5, "n": 20}, {"step": 2}]
    assert metric_over_steps(rows, "m") == ([1], [0.5])
    assert metric_over_steps(rows, "m", "n") == ([1], [10.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": []}, "Give --references"),
        ({"policies": ["new"]}, "--policies 'new': expected NAME=VALUE"),
        ({"kinds": ["additions="]}, "--kinds 'additions='"),
        ({"policies": ["a=x"]}, "Two models have one name: a, b, a"),
        ({"pass_k": [0]}, "--pass_k"),
        ({"num_prompts": 0}, "--num_prompts 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        settings(tmp_path, **changes).validate()
