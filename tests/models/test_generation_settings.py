"""generation_config.json of a folder: what cannot be saved is left out, the ends are told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint.model_folder import check_save, save_model_folder
from dschat.models.loading import load_causal_lm, load_tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM

ODD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a temperature without sampling": (
        {"temperature": 0.9, "eos_token_id": 1},
        {"temperature": None},
        "temperature 0.9",
    ),
    "settings of sampling and of beams": (
        {"do_sample": False, "top_p": 0.3, "top_k": 7, "length_penalty": 2.0, "num_beams": 1},
        {"top_p": None, "top_k": None, "length_penalty": None},
        "top_p 0.3",
    ),
    "what transformers does not even load": (
        {"num_return_sequences": 3, "max_new_tokens": -5, "cache_implementation": "none such"},
        {"num_return_sequences": None, "max_new_tokens": None, "cache_implementation": None},
        "max_new_tokens -5",
    ),
    "names that are none": ({"logits_processor": 1, "top_p": [1]}, {"top_p": None}, "logits_proc"),
    "all in order": (
        {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9},
        "",
    ),
}


def odd_folder(base: Path, folder: Path, settings: Any) -> str:
    LlamaForCausalLM.from_pretrained(base).save_pretrained(folder)
    for file in base.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize("name", ODD)
def test_it_loads_and_saves(
    name: str, tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, expected, told = ODD[name]
    folder = odd_folder(tiny_model_dir, tmp_path / "model", settings)
    tokenizer = load_tokenizer(folder)
    with caplog.at_level(logging.WARNING, "dschat"):
        model = load_causal_lm(folder, tokenizer, torch.float32)
    assert (told in caplog.text) if told else ("generation_config" not in caplog.text)
    model.generation_config.eos_token_id = [7, 8]  # whatever a trainer has made of it
    check_save([model], tokenizer, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"], "nothing is left of the check"
    save_model_folder(model, tokenizer, tmp_path / "saved")
    found = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert {n: getattr(found, n) for n in expected} == expected
    assert (found.eos_token_id, found.pad_token_id, found.bos_token_id) == (1, 0, 2)
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")


def test_all_ends_are_saved(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = odd_folder(tiny_model_dir, tmp_path / "model", {"eos_token_id": [1, 3]})
    tokenizer = load_tokenizer(folder, end_of_conversation_token="<bos>")
    model = load_causal_lm(folder, tokenizer, torch.float32)
    save_model_folder(model, tokenizer, tmp_path / "saved")
    found = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert found["eos_token_id"] == [2, 1, 3]
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["eos_token_id"] == 2
    assert load_tokenizer(str(tmp_path / "saved")).eos_token == "<bos>"


def test_what_stops_a_save_stops_the_check(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dschat.errors import UserError

    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    check_save([model], tiny_tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny_tokenizer), "save_pretrained", _fails)
        with pytest.raises(UserError, match=r"LlamaForCausalLM or its tokenizer .* no can do"):
            check_save([model], tiny_tokenizer, tmp_path)
    model.generation_config.temperature = 0.3
    with pytest.raises(UserError, match="`temperature`"):
        check_save([model], tiny_tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


def _fails(*_: Any, **__: Any) -> None:
    raise NotImplementedError("no can do")
