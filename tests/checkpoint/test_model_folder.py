"""Model folders: complete, plain, and never half-written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint.model_folder import save_model_folder
from dschat.errors import UserError
from dschat.models.lora import add_lora
from tiny import tiny_config


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir)


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).logits


def test_what_is_saved_loads_the_same(model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    expected = model.eval()(torch.tensor([[5, 6, 7, 8]])).logits.detach()
    save_model_folder(model, tiny_tokenizer, tmp_path / "step_3")
    assert torch.equal(logits(tmp_path / "step_3"), expected)
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tmp_path / "step_3")
    assert loaded.get_vocab() == tiny_tokenizer.get_vocab()
    assert loaded.eos_token == "<eos>"


def test_adapters_are_merged(model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    adapted = add_lora(model, 4, "model.layers.").eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        expected = adapted(torch.tensor([[5, 6, 7, 8]])).logits
    save_model_folder(adapted, tiny_tokenizer, tmp_path / "m")
    torch.testing.assert_close(logits(tmp_path / "m"), expected, atol=1e-5, rtol=1e-4)
    assert not list((tmp_path / "m").glob("adapter*"))


def test_tied_weights_are_stored_once(tiny_tokenizer: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(tiny_config(tiny_tokenizer, tie_word_embeddings=True)).eval()
    expected = model(torch.tensor([[5, 6, 7, 8]])).logits.detach()
    save_model_folder(model, tiny_tokenizer, tmp_path / "m")
    assert "lm_head.weight" not in load_file(tmp_path / "m" / "model.safetensors")
    assert torch.equal(logits(tmp_path / "m"), expected)


def test_beside_other_files_stale_weights_go(
    model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("kept")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("stale")
    (tmp_path / "model.safetensors.index.json").write_text("stale")
    save_model_folder(model, tiny_tokenizer, tmp_path, keep_other_files=True)
    assert (tmp_path / "metrics.jsonl").read_text() == "kept"
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]
    assert not list(tmp_path.glob(".model*"))
    assert logits(tmp_path).shape == (1, 4, 200)


@pytest.mark.parametrize("keep_other_files", [False, True])
def test_a_full_disk_leaves_what_was_there(
    model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any, keep_other_files: bool
) -> None:
    folder = tmp_path / "m"
    save_model_folder(model, tiny_tokenizer, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fill_up(self: Any, target: Path, **options: Any) -> None:
        (Path(target) / "model.safetensors").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", fill_up)
    with pytest.raises(UserError, match="disk is full"):
        save_model_folder(model, tiny_tokenizer, folder, keep_other_files)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    with pytest.raises(UserError, match="disk is full"):
        save_model_folder(model, tiny_tokenizer, tmp_path / "new" / "step_1")
    assert not (tmp_path / "new" / "step_1").exists()
