"""Models that respond and are compared: figures against plain computation, all files."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.data.load import load_data
from dschat.data.prompts import build_prompts
from dschat.errors import UserError
from dschat.evaluation.comparison.run import compare
from dschat.evaluation.tables import distinct_n
from dschat.example.arithmetic import write_datasets
from dschat.example.arithmetic_model import write_model
from dschat.rewards.math_answers import answered_correctly
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import Sampler
from dschat.settings.comparison import COMPARE, CompareConfig
from online_fixtures import write_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS, TEMPERATURE, SEED = 6, 0.7, 3
OWN_REWARD = """
class Letters:
    name = "letters"

    def __call__(self, prompts, responses, examples):
        return self.explained(prompts, responses, examples)[0]

    def explained(self, prompts, responses, examples):
        assert all(e["response_ids"] for e in examples)
        return [len(r) for r in responses], {"short": [float(len(r) < 9) for r in responses]}


letters = Letters()
"""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    write_datasets(folder, 1, train_size=4, test_size=6)
    for seed, name in enumerate(("a", "b", "policy")):
        write_model(folder / name, seed)
    (folder / "run").mkdir()
    rows: list[dict[str, Any]] = [
        {"step": 0, "eval/accuracy": 0.25},
        {"step": 1, "reward": 0.5, "log_ratio": 0.1, "response_length": 20.0},
    ]
    (folder / "run/metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def settings(folder: Path, **changes: Any) -> CompareConfig:
    given: dict[str, Any] = {
        "models": [f"new={folder / 'policy'}"],
        "reference_models": [f"a={folder / 'a'}", f"b={folder / 'b'}"],
        "runs": [str(folder / "run")],
        "dataset": [str(folder / "correct")],
        "kinds": ["additions=+", "subtractions=-"],
        "max_new_tokens": TOKENS,
        "temperature": TEMPERATURE,
        "greedy": True,
        "pass_k": [1, 2],
        "batch_size": 4,
        "seed": SEED,
        "resamples": 200,
        "output": str(folder / "out"),
        **changes,
    }
    config = CompareConfig(**given)
    config.validate()
    return config


@torch.no_grad()
def plain_divergence(model: Any, reference: Any, prompts: Any, responses: Any) -> float:
    """Mean over prompts of sum_t KL(model || reference), one response at a time, no padding."""
    total = 0.0
    for prompt, response in zip(prompts, responses, strict=True):
        text = torch.tensor([prompt.ids + response])
        p, q = (
            (m(text).logits[0, len(prompt.ids) - 1 : -1].double() / TEMPERATURE).log_softmax(-1)
            for m in (model, reference)
        )
        total += float((p.exp() * (p - q)).sum())
    return total / len(prompts)


def test_the_comparison_says_what_plain_computation_says(folder: Path, capsys: Any) -> None:
    figures = compare(settings(folder))
    shown = capsys.readouterr().out
    out = folder / "out"
    for name in ("comparison.png", "curves.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "KL to a" in shown
    assert "--- " in shown, "samples"
    found = json.loads((out / "comparison.json").read_text())["figures"]
    assert found["names"] == {"a": "new", "b": "a", "c": "b"}
    assert (found["prompts"], found["pairs"]) == (6, 12)
    measures = {m.name: [e.mean for e in m.of] for m in figures.measures}
    tokenizer = AutoTokenizer.from_pretrained(folder / "a")
    data = load_data([str(folder / "correct")], "rl", "0,0,1", 1, str(folder / "data"))
    prompts, _ = build_prompts(data.eval, tokenizer, 64)
    models = [AutoModelForCausalLM.from_pretrained(folder / n).eval() for n in ("policy", "a", "b")]
    sampler = Sampler(tokenizer, GenerationSettings.of(tokenizer, TOKENS, TEMPERATURE), SEED, 1)
    repeated = [p for p in prompts for _ in range(2)]
    for i, (name, model) in enumerate(zip(("new", "a", "b"), models, strict=True)):
        responses = sampler.sample(model, repeated, sampler.numbers(12))
        rows = rows_of(out / f"{name}.jsonl")
        assert [row["response"] for row in rows] == sampler.decode(responses)
        assert [row["prompt"] for row in rows] == [p.text for p in repeated]
        greedy = sampler.decode(sampler.sample(model, prompts, None))
        assert [row["response"] for row in rows_of(out / f"{name}.greedy.jsonl")] == greedy
        right = [answered_correctly(r, p.example) for r, p in zip(greedy, prompts, strict=True)]
        assert measures["accuracy, greedy"][i] == statistics.fmean(right)
        expected = [plain_divergence(model, r, prompts, responses[::2]) for r in models[1:]]
        assert [measures["KL to a"][i], measures["KL to b"][i]] == pytest.approx(
            expected, rel=1e-4, abs=1e-6
        )
        assert measures["tokens"][i] == statistics.fmean(map(len, responses))
        assert measures["distinct-2"][i] == distinct_n(sampler.decode(responses), 2)
    assert measures["KL to a"][1] == 0.0
    assert measures["KL to a"][0] > 1e-3
    kinds = [row["kinds"] for row in rows_of(out / "new.greedy.jsonl")]
    assert sorted(kinds) == [["additions"]] * 3 + [["subtractions"]] * 3
    # The files it has written can be compared again.
    again = CompareConfig(
        files=[str(out / f"{n}.jsonl") for n in ("new", "a", "b")],
        output=str(folder / "again"),
        resamples=200,
    )
    assert {m.name: [e.mean for e in m.of] for m in compare(again).measures}["KL to b"] == measures[
        "KL to b"
    ]


def test_a_reward_model_and_a_reward_of_ones_own(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, tiny_tokenizer: Any
) -> None:
    from dschat.rewards.text_reward import TextReward

    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(other)
    (tmp_path / "own.py").write_text(OWN_REWARD)
    config = CompareConfig(
        models=[f"same={tiny_model_dir}", f"other={other}"],
        reference_models=[f"start={tiny_model_dir}"],
        reward_model=str(tiny_reward_dir),
        reward=[f"{tmp_path / 'own.py'}:letters"],
        divergences=["KL", "Sinkhorn"],
        dataset=[str(write_prompts(tmp_path / "prompts"))],
        max_new_tokens=6,
        num_samples=5,
        resamples=200,
        output=str(tmp_path / "out"),
    )
    config.validate()
    figures = compare(config)
    measures = {m.name: m for m in figures.measures}
    assert list(measures)[:5] == [
        "reward",
        "letters",
        "short",
        "KL to start",
        "Sinkhorn to start",
    ]
    assert measures["short"].share
    kl, sinkhorn = ([e.mean for e in measures[f"{n} to start"].of] for n in ("KL", "Sinkhorn"))
    assert (kl[0], kl[2]) == (0.0, 0.0)
    assert (sinkhorn[0], sinkhorn[2]) == (pytest.approx(0, abs=1e-5),) * 2
    assert kl[1] > 1e-4
    assert sinkhorn[1] > 0
    scorer = TextReward(
        str(tiny_reward_dir), "reward_model", torch.float32, torch.device("cpu"), batch_size=2
    )
    for name in ("same", "other"):
        rows = rows_of(tmp_path / "out" / f"{name}.jsonl")
        assert len(rows) == 5
        expected = scorer([r["prompt"] for r in rows], [r["response"] for r in rows])
        assert [r["reward"] for r in rows if r["ended"]] == pytest.approx(
            [x for x, r in zip(expected, rows, strict=True) if r["ended"]], abs=1e-4
        )
        assert [r["scores"]["letters"] for r in rows] == [len(r["response"]) for r in rows]
    # The same model with the same random numbers says the same.
    assert figures.outcomes[1].ties.mean == 1.0


def test_checked_answers_with_the_flags_of_their_reward(folder: Path) -> None:
    flags = f"--models new={folder / 'policy'} --dataset {folder / 'correct'} --num_samples 2"
    flags += f" --max_new_tokens 4 --resamples 200 --output {folder / 'checked'}"
    flags += " --reward math:1 --answer_extraction tags --tag_reward 0.5"
    config = COMPARE.parse(flags.split())
    assert "found_by_tags" in [m.name for m in compare(config).measures]
    (row, _) = rows_of(folder / "checked" / "new.jsonl")
    assert row["scores"]["tags"] in (0.0, 0.5, 1.0, 1.5, 2.0)
    assert row["scores"]["answer"] in (0.0, 2.0)
    assert row["scores"]["accuracy"] == (row["scores"]["answer"] == 2.0)
    with pytest.raises(UserError, match="--answer_extraction last_word: expected"):
        COMPARE.parse([*flags.split(), "--answer_extraction", "last_word"])
    with pytest.raises(UserError, match="name the model's folder with --reward_model"):
        COMPARE.parse([*flags.split(), "--reward", "reward_model"])


def test_several_processes_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dschat.evaluation.comparison.respond.world_size", lambda: 2)
    with pytest.raises(UserError, match="in one process, and there are 2"):
        compare(settings(folder))


def test_a_kind_without_problems_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--kinds products=x: .* no test problem"):
        compare(settings(folder, kinds=["products=x"]))


def test_distinct_n_counts_different_word_runs() -> None:
    assert distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)  # ab ba ab | ab
    assert distinct_n(["a", ""], 2) == 0.0
