"""Responses and rewards: against forward passes by hand, and however the work is cut."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
import torch
from dpo_fixtures import save_model
from dschat.data.prompts import PromptExample
from dschat.evaluation.respond.policy import Policy, diverging, sum_over_response
from dschat.evaluation.respond.run import infer
from dschat.evaluation.tables import figures_table, response_figures
from dschat.rollout import sampler as sampler_module
from dschat.settings.inference import DATASETS, dataset_name, model_name
from inference_fixtures import NEW, N, configured, greedy, kl, read, save_reward_model, score
from preferences import rows
from transformers import AutoModelForCausalLM

OUTPUT = Path("results") / "data" / "temperature=0.8" / "ppo_step-3.jsonl"


def prompt_order(count: int) -> list[str]:
    """`datasets` shuffles the evaluation split with seed 1234."""
    raw = datasets.Dataset.from_list(rows(N, first=100)).shuffle(seed=1234)
    return list(raw["prompt"])[:count]


def test_greedy_responses_and_their_rewards(flags: dict[str, Any], tiny_tokenizer: Any) -> None:
    infer(configured({**flags, "temperature": 0, "num-samples": 5}))
    found = read(flags["proj-path"] / "results/data/temperature=0.0/ppo_step-3.jsonl")
    assert [row["prompt"] for row in found] == prompt_order(5)
    for row in found:
        assert list(row) == ["prompt", "response", "reward"]
        ids = greedy(flags["model"] / "actor", tiny_tokenizer, row["prompt"], NEW)
        assert row["response"] == tiny_tokenizer.decode(ids, skip_special_tokens=True)
        prompt = tiny_tokenizer(row["prompt"])["input_ids"]
        assert row["reward"] == pytest.approx(score(flags["reward-model"], prompt + ids), abs=1e-4)
    assert len({round(row["reward"], 3) for row in found}) == 5


def test_a_response_does_not_depend_on_the_batch(flags: dict[str, Any], tmp_path: Path) -> None:
    results = []
    for size in (1, 3, 16):
        infer(configured({**flags, "batch-size": size, "proj-path": tmp_path / str(size)}))
        results.append(read(tmp_path / str(size) / OUTPUT))
    assert len(results[0]) == N
    for found in results[1:]:
        assert [row["response"] for row in found] == [row["response"] for row in results[0]]
        rewards = [row["reward"] for row in results[0]]
        assert [row["reward"] for row in found] == pytest.approx(rewards, abs=1e-4)
    other = {**flags, "seed": 5, "proj-path": tmp_path / "other"}
    infer(configured(other))
    found = read(tmp_path / "other" / OUTPUT)
    assert [row["prompt"] for row in found] == [row["prompt"] for row in results[0]]
    assert [row["response"] for row in found] != [row["response"] for row in results[0]]


def test_what_is_done_is_not_done_again(
    flags: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = {**flags, "proj-path": tmp_path / "whole"}
    infer(configured(whole))
    generated: list[int] = []
    real = sampler_module.generate

    def generate(model: Any, request: Any) -> Any:
        if generated == [4, 4]:
            raise RuntimeError("the power is gone")
        generated.append(len(request.input_ids))
        return real(model, request)

    monkeypatch.setattr(sampler_module, "generate", generate)
    with pytest.raises(RuntimeError, match="power"):
        infer(configured(flags))
    output = flags["proj-path"] / OUTPUT
    assert not output.exists()
    (partial,) = (output.parent / ".ppo_step-3.partial").glob("responses.*.jsonl")
    text = partial.read_bytes()
    assert text.count(b"\n") == 8
    partial.write_bytes(text[:-9])  # the last line is torn
    generated.clear()
    infer(configured({**flags, "batch-size": 3}))
    assert generated == [3, 1]  # the 3 that were not begun, and the torn one
    assert "responses: 7 of 11 are done already" in capsys.readouterr().out
    assert [row["response"] for row in read(output)] == [
        row["response"] for row in read(tmp_path / "whole" / OUTPUT)
    ]
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "ppo_step-3.jsonl",
        "ppo_step-3.summary.json",
    ]


def test_a_finished_run_is_left_alone(
    flags: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = infer(configured(flags))
    output = flags["proj-path"] / OUTPUT
    before = output.stat().st_mtime_ns
    left = output.parent / ".ppo_step-3.partial"  # as if killed at the very end
    left.mkdir()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sampler_module, "generate", None)
        again = infer(configured(flags))
    assert again["figures"] == first["figures"]
    told = capsys.readouterr().out
    assert "is finished: nothing to do" in told
    assert "distinct-1" in told
    assert output.stat().st_mtime_ns == before
    assert not left.exists()
    infer(configured({**flags, "overwrite": True}))
    assert output.stat().st_mtime_ns > before


def test_divergences_from_a_reference(flags: dict[str, Any], tiny_tokenizer: Any) -> None:
    actor, sft = flags["model"] / "actor", flags["model"].parent.parent / "sft"
    asked = {**flags, "temperature": 0, "num-samples": 3, "reference-model": sft}
    figures = infer(configured(asked))["figures"]["ppo_step-3"]
    sums = []
    for prompt in prompt_order(3):
        ids = tiny_tokenizer(prompt)["input_ids"]
        response = greedy(actor, tiny_tokenizer, prompt, NEW)
        sums.append(kl(actor, sft, ids + response, len(ids), 1.0))
    assert figures["KL"] == pytest.approx(statistics.fmean(sums), rel=1e-4)
    assert figures["Sinkhorn"] > 0.01
    own = {**asked, "reference-model": actor, "overwrite": True}
    figures = infer(configured(own))["figures"]["ppo_step-3"]
    assert figures["KL"] == pytest.approx(0, abs=1e-5)
    assert figures["Sinkhorn"] == pytest.approx(0, abs=1e-4)


def test_divergences_are_of_the_tempered_policies(
    flags: dict[str, Any], tiny_tokenizer: Any
) -> None:
    actor, sft = flags["model"] / "actor", flags["model"].parent.parent / "sft"
    cpu, end = torch.device("cpu"), tiny_tokenizer.eos_token_id
    policy = Policy(str(actor), "model", tiny_tokenizer, 0.7, NEW, 0, torch.float32, cpu)
    prompts = [PromptExample([9, 8, 7], "", {}), PromptExample([20], "", {})]
    responses = {
        i: {"response": "", "response_ids": r} for i, r in enumerate([[30, 31, 32], [end]])
    }
    with diverging(policy, str(sft), prompts, responses) as batch:
        found = batch([1, 0])
    for row, i in zip(found, (1, 0), strict=True):
        ids = prompts[i].ids + responses[i]["response_ids"]
        assert row["index"] == i
        assert row["KL"] == pytest.approx(kl(actor, sft, ids, len(prompts[i].ids), 0.7), rel=1e-4)


def test_a_reward_model_with_another_tokenizer(
    flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "TINY_VOCABULARY", 120)
    other = tiny.build_tiny_tokenizer()
    folder = save_reward_model(tmp_path / "rm", other)
    infer(configured({**flags, "reward-model": folder, "num-samples": 4}))
    for row in read(flags["proj-path"] / OUTPUT):
        ids = other(row["prompt"])["input_ids"] + other(row["response"] + "<eos>")["input_ids"]
        assert row["reward"] == pytest.approx(score(folder, ids), abs=1e-4)


def test_chat_messages(
    flags: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    policy = save_model(tmp_path / "policy", tokenizer, 1)
    rewards = save_reward_model(tmp_path / "rm", tokenizer)
    for split in ("train", "test"):
        prompt = [{"role": "user", "content": f"{split} egg?"}]
        row = {"prompt": prompt, "chosen": "In water.", "rejected": "No."}
        (flags["dataset"] / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    asked = {"model": policy, "no-actor-folder": True, "reward-model": rewards, "temperature": 0}
    infer(configured({**flags, **asked}))
    (row,) = read(flags["proj-path"] / "results/data/temperature=0.0/policy.jsonl")
    assert row["prompt"] == "test egg?|"
    ids = greedy(policy, tokenizer, "test egg?|", NEW)
    assert row["response"] == tokenizer.decode(ids, skip_special_tokens=True)
    whole = tokenizer("test egg?|")["input_ids"] + ids
    assert row["reward"] == pytest.approx(score(rewards, whole), abs=1e-4)


def test_padding_rows_of_the_vocabulary_are_not_sampled(
    flags: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    size = len(tiny_tokenizer)
    wide = save_model(tmp_path / "wide", tiny_tokenizer, 1, vocab_size=size + 8)
    model = AutoModelForCausalLM.from_pretrained(wide)
    with torch.no_grad():
        # Whatever the state, a row and its opposite: one of the two has the largest logit.
        model.lm_head.weight[size:] = 100 * torch.randn(1, 32).repeat(8, 1)
        model.lm_head.weight[size + 4 :] *= -1
    model.save_pretrained(wide)
    assert max(greedy(wide, tiny_tokenizer, "Human: egg?", 3)) >= size
    infer(configured({**flags, "model": wide, "no-actor-folder": True, "num-samples": 3}))
    for row in read(flags["proj-path"] / "results/data/temperature=0.8/wide.jsonl"):
        assert row["response"]


def test_the_data_sets_own_responses(flags: dict[str, Any], tiny_tokenizer: Any) -> None:
    asked = {n: v for n, v in flags.items() if n not in ("model", "max-new-tokens")}
    figures = infer(configured({**asked, "ref-scores": True, "num-samples": 6}))["figures"]
    found = read(flags["proj-path"] / "results/data/temperature=0.8/dataset.jsonl")
    assert [row["prompt"] for row in found] == prompt_order(6)
    pairs = {row["prompt"]: row for row in rows(N, first=100)}
    for row in found:
        pair = pairs[row["prompt"]]
        assert (row["response"], row["rejected_response"]) == (pair["chosen"], pair["rejected"])
        for name, response in (("reward", "chosen"), ("rejected_reward", "rejected")):
            text = row["prompt"], pair[response] + "<eos>"
            ids = [i for part in text for i in tiny_tokenizer(part)["input_ids"]]
            assert row[name] == pytest.approx(score(flags["reward-model"], ids), abs=1e-4)
    higher = [row["reward"] > row["rejected_reward"] for row in found]
    assert figures["chosen"]["higher reward"] == statistics.fmean(higher)


def test_figures_by_hand() -> None:
    figures = response_figures(
        [1.0, 2.0, 6.0], ["a b a", "b a", "c"], [4, 3, 5], [True, False, True], {"KL": [1, 2, 3]}
    )
    assert figures["reward"] == 3.0
    assert figures["standard_error"] == pytest.approx((7 / 3) ** 0.5)  # variance 7
    assert (figures["length"], figures["ended"], figures["KL"]) == (4.0, 2 / 3, 2.0)
    assert figures["distinct_1"] == 3 / 6  # a b c of 6 words
    assert figures["distinct_2"] == 2 / 3  # "a b", "b a" twice
    one = response_figures([1.0], ["a"], [2])
    _, head, _, *lines = figures_table({"ppo": figures, "one": one}).splitlines()
    names = "responses reward std. error tokens distinct-1 distinct-2 ended KL"
    assert head.split() == names.split()
    assert " ".join(lines[0].split()) == "ppo 3 3.000 1.528 4.0 0.500 0.667 66.7% 2.000"
    assert " ".join(lines[1].split()) == "one 1 1.000 - 2.0 1.000 0.000 - -"


def test_sums_over_a_response() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    assert sum_over_response(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), mask) == [3.0, 0.0, 28.0]


def test_names_of_results(tmp_path: Path) -> None:
    assert model_name("a/models/ppo/step-12") == "ppo_step-12"
    assert model_name("a/models/ppo/step-12/actor") == "ppo_step-12"
    assert model_name("a/models/rm/step_7/") == "rm_step_7"
    assert model_name("google/gemma-2b") == "gemma-2b"
    assert dataset_name("summarize", DATASETS) == "summarize"
    assert dataset_name("/data/Dahoas/full-hh-rlhf", DATASETS) == "hh-rlhf"
    file = tmp_path / "mine.jsonl"
    file.write_text("{}")
    names = [dataset_name(str(path), DATASETS) for path in (file, tmp_path)]
    assert names == ["mine", tmp_path.name]


def test_a_summary_says_how_the_results_were_made(flags: dict[str, Any]) -> None:
    infer(configured({**flags, "num-samples": 2}))
    summary = json.loads((flags["proj-path"] / OUTPUT).with_suffix(".summary.json").read_text())
    assert summary["settings"]["seed"] == 1234
    assert summary["settings"]["dtype"] == "fp32"
    assert summary["figures"]["ppo_step-3"]["responses"] == 2
    assert "torch" in summary["versions"]
