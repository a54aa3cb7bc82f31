"""What a user can get wrong, and results of other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_fixtures import save_model
from dschat.errors import UserError
from dschat.evaluation.respond.run import infer
from dschat.evaluation.respond.stages import choose_device, policy_tokenizer
from inference_fixtures import configured, save_reward_model


def refused(flags: dict[str, Any], match: str, **changes: Any) -> None:
    asked = {**flags, **{name.replace("_", "-"): value for name, value in changes.items()}}
    with pytest.raises(UserError, match=match):
        infer(configured({name: value for name, value in asked.items() if value is not None}))


def test_flags(flags: dict[str, Any]) -> None:
    refused(flags, "Give --proj-path", proj_path=None)
    refused(flags, "Give --reward-model", reward_model=None)
    refused(flags, "Give the policy: --model", model=None)
    refused(flags, "--batch-size 0: expected 1 or more", batch_size=0)
    refused(flags, "--temperature -1.0: expected 0", temperature=-1)
    refused(flags, "--temperature nan", temperature="nan")
    refused(flags, "--dtype 'fp8' is unknown", dtype="fp8")
    refused(flags, "give --model too", model=None, no_actor_folder=True, ref_scores=True)


def test_models(flags: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path) -> None:
    run = flags["model"].parent
    refused(flags, "step-9: no such folder", model=run / "step-9")
    refused(flags, "has no subfolder actor/ .it has: step-3.*--no-actor-folder", model=run)
    refused(flags, "nowhere: no such folder", model=tmp_path / "nowhere", no_actor_folder=True)
    refused(flags, "is no reward model", reward_model=flags["model"] / "actor")
    refused(flags, "--reward-model .*: no such folder", reward_model=tmp_path / "nowhere")
    three = save_reward_model(tmp_path / "three", tiny_tokenizer, num_labels=3)
    refused(flags, "3 labels", reward_model=three)
    short = save_model(tmp_path / "short", tiny_tokenizer, 1, max_position_embeddings=20)
    refused(flags, "--max-new-tokens 7.*context is 20", model=short, no_actor_folder=True)
    names = {"model": flags["model"] / "actor", "no_actor_folder": True}
    refused(flags, "--max-new-tokens 900.*context is 512", max_new_tokens=900, **names)


def test_a_reference_with_another_tokenizer(
    flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny

    monkeypatch.setattr(tiny, "TINY_VOCABULARY", 120)
    other = save_model(tmp_path / "other", tiny.build_tiny_tokenizer(), 1)
    refused(flags, "different vocabularies", reference_model=other)


def test_data(flags: dict[str, Any], tmp_path: Path) -> None:
    refused(flags, "--dataset sumarize: neither one of summarize, hh-rlhf", dataset="sumarize")
    refused(flags, "None of the 11 prompts has 3 tokens", max_prompt_tokens=3)
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"prompt": "Human: one Assistant:"}\n')
    refused(flags, "there are no held-out prompts", dataset=alone)


def test_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(UserError, match="--gpu 0: torch sees no GPU here"):
        choose_device(0)
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert choose_device(None) == torch.device("cuda", 0)
    assert choose_device(1) == torch.device("cuda", 1)
    assert taken == [0, 1]
    with pytest.raises(UserError, match="--gpu 2: there are 2, numbered from 0"):
        choose_device(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="--gpu 0 is for one process"):
        choose_device(0)


def test_results_of_other_settings_are_not_mixed(flags: dict[str, Any]) -> None:
    few = {**flags, "num-samples": 2}
    infer(configured(few))
    refused(few, r"ppo_step-3.jsonl was made with other settings: seed 1234 then, 5 now", seed=5)
    output = flags["proj-path"] / "results/data/temperature=0.8/ppo_step-3.jsonl"
    summary = output.with_suffix(".summary.json")
    settings = json.loads(summary.read_text())["settings"]
    summary.unlink()
    refused(few, "is there, but not ppo_step-3.summary.json")
    output.unlink()
    partial = output.parent / ".ppo_step-3.partial"
    partial.mkdir()
    (partial / "settings.json").write_text(json.dumps({**settings, "model_files": "other"}))
    (partial / "responses.rank-0.jsonl").write_text('{"index": 0}\n')
    refused(few, "partial result .* other settings: model_files 'other' then")
    infer(configured({**few, "overwrite": True}))
    assert output.is_file()
    assert not partial.exists()


def test_a_gpu_that_is_too_small(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("dschat.rollout.sampler.generate", generate)
    refused(flags, "too small for --batch-size 4 .responses, the longest first.")


def test_a_tokenizer_without_a_padding_token(tiny_tokenizer: Any, tmp_path: Path) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = None
    save_model(tmp_path, tiny_tokenizer, 1)
    tokenizer.save_pretrained(tmp_path)
    found = policy_tokenizer(str(tmp_path), "Ġ")
    assert (found.pad_token, found.eos_token) == ("<unk>", "Ġ")
    with pytest.raises(UserError, match="'<no>' is not a token"):
        policy_tokenizer(str(tmp_path), "<no>")
