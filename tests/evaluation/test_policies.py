"""Evaluating and comparing policies: figures against direct computation, output that is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.evaluation.run_comparison import ComparisonConfig, compare
from dschat.evaluation.text_statistics import distinct_n
from online_fixtures import write_prompts


def test_distinct_n_counts_different_word_runs() -> None:
    assert distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)  # ab ba ab | ab
    assert distinct_n(["a", ""], 2) == 0.0
    with pytest.raises(ValueError, match="1 or more"):
        distinct_n(["a"], 0)


def test_a_comparison_of_a_policy_with_itself_and_another(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, capsys: Any
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(other)
    run = tmp_path / "run"
    run.mkdir()
    row = {"iteration": 1, "reward": 0.5, "log_ratio": 0.1, "divergence": None}
    (run / "metrics.jsonl").write_text(json.dumps({**row, "response_length": 3.0}) + "\n")
    config = ComparisonConfig(
        reference=str(tiny_model_dir),
        reward_model=str(tiny_reward_dir),
        policies=[f"same={tiny_model_dir}", f"other={other}"],
        runs=[f"other={run}"],
        data_path=[str(write_prompts(tmp_path / "prompts"))],
        max_answer_seq_len=6,
        num_samples=1,
        output_dir=str(tmp_path / "out"),
    )
    config.validate()
    picture = compare(config)
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(result["prompts"]) == 8
    reports = result["policies"]
    assert reports["same"]["divergences"] == {"KL": 0.0, "Wasserstein": pytest.approx(0, abs=1e-5)}
    assert reports["other"]["divergences"]["KL"] > 1e-4
    assert reports["other"]["divergences"]["Wasserstein"] > 0
    for report in reports.values():
        assert len(report["rewards"]) == len(report["responses"]) == 8  # the held-out prompts
        assert report["reward"] == pytest.approx(sum(report["rewards"]) / 8)
    shown = capsys.readouterr().out
    assert "distinct-2" in shown
    assert "--- prompt 1" in shown
