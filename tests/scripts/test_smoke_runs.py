"""Every recipe from its first script to its last, on tiny data and models (SMOKE=1)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from dschat.runtime.files import read_jsonl
from recipes import run_recipe
from transformers import AutoConfig

pytestmark = pytest.mark.slow


def smoke_run(recipe: str, out: Path, **variables: str) -> None:
    """Run the recipe, then once more, when nothing is left to do."""
    code, told = run_recipe(f"{recipe}/run_all.sh", 900, SMOKE="1", OUT=str(out), **variables)
    assert code == 0, told[-4000:]
    code, told = run_recipe(f"{recipe}/run_all.sh", 60, SMOKE="1", OUT=str(out), **variables)
    assert code == 0, told
    lines = told.splitlines()
    assert lines
    assert all(line.startswith("== already there: ") for line in lines), told


def trained(folder: Path, *models: Path, steps: int) -> None:
    """The folder of a finished run: its models, and a line of finite metrics for each step."""
    for model in models:
        AutoConfig.from_pretrained(model)
        assert list(model.glob("*.safetensors"))
        assert (model / "tokenizer.json").is_file()
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if any("loss" in n for n in row)]
    assert len(rows) >= steps
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert list(folder.glob("resumable-*"))  # a killed run would have resumed from it
    assert (folder / "config.yaml").is_file()


def responses(results: Path, policy: str, count: int) -> Path:
    """The file of a policy's responses."""
    names = [p for p in results.glob(f"{policy}*.jsonl") if "sampled" not in p.name]
    found = [p for p in names if "-v.s.-" not in p.name]
    assert len(found) == 1, sorted(p.name for p in results.iterdir())
    rows = read_jsonl(found[0])
    assert len(rows) == count
    assert all(math.isfinite(row["reward"]) for row in rows)
    return found[0]


def preferences(out: Path, dataset: str, policies: list[str], count: int, judged: int) -> None:
    """What steps 1 to 5 leave."""
    models = out / "models" / dataset
    results = out / "results" / dataset / "temperature=0.8"
    trained(models / "sft", models / "sft", steps=1)
    (reward_model,) = models.glob("reward_model/step_*")
    trained(models / "reward_model", reward_model, steps=2)
    assert AutoConfig.from_pretrained(reward_model).num_labels == 1
    for policy in policies:
        (step,) = (models / policy).glob("step-*")
        trained(models / policy, step / "actor", step / "critic", steps=2)
    names = {policy: responses(results, policy, count).stem for policy in ["sft", *policies]}
    pairs = [(a, "sft") for a in policies] + [(a, "kl") for a in policies if a != "kl"]
    for a, b in pairs:
        if b in names:
            judgments = read_jsonl(results / f"{names[a]}-v.s.-{names[b]}.jsonl")
            assert len(judgments) == judged
            assert {row["winner"] for row in judgments} <= {"A", "B", "Tie"}


def test_tldr(tmp_path: Path) -> None:
    smoke_run("tldr", tmp_path, POLICIES="kl wpr")
    preferences(tmp_path, "summarize", ["kl", "wpr"], count=6, judged=4)


def test_hh_rlhf(tmp_path: Path) -> None:
    smoke_run("hh-rlhf", tmp_path, POLICIES="js")
    preferences(tmp_path, "hh-rlhf", ["js"], count=6, judged=4)


def test_webgpt(tmp_path: Path) -> None:
    smoke_run("webgpt", tmp_path, POLICIES="ma")
    preferences(tmp_path, "webgpt", ["ma"], count=2, judged=2)


def test_apps(tmp_path: Path) -> None:
    smoke_run("apps", tmp_path, POLICIES="wpr")
    models, results = tmp_path / "models" / "apps", tmp_path / "results" / "apps"
    trained(models / "sft", models / "sft", steps=1)
    (step,) = (models / "wpr").glob("step-*")
    trained(models / "wpr", step / "actor", step / "critic", steps=2)
    for policy in ("sft", "wpr"):
        responses(results / "temperature=1.0", policy, count=4)  # 2 problems, 2 programs each


def test_gsm8k(tmp_path: Path) -> None:
    smoke_run("gsm8k", tmp_path)
    for name in ("gsm8k_rkl_a05", "gsm8k_fkl_b05"):
        trained(tmp_path / name, tmp_path / name, steps=2)
    text = (tmp_path / "gsm8k_comparison" / "comparison.json").read_text()
    names = json.loads(text)["figures"]["names"]
    assert list(names.values()) == ["RKL", "FKL", "ref_a", "ref_b"]


def test_ultrafeedback(tmp_path: Path) -> None:
    smoke_run("ultrafeedback", tmp_path)
    for name in ("dpo_ultra_rkl_a05", "dpo_ultra_fkl_b05"):
        trained(tmp_path / name, tmp_path / name, steps=2)
        compared = json.loads((tmp_path / name / "reward_comparison.json").read_text())
        assert compared
