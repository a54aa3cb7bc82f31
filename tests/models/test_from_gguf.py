"""A GGUF file becomes a plain model folder with the same weights, tokens and ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.from_gguf import convert, main
from gguf_files import TEMPLATE, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TEXT = "The capital of France, 1999: don't\n  boil <eos>"


def test_logits_tokens_and_template_are_those_of_the_model(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    model = write_gguf(file, tiny_tokenizer)
    main([str(file), str(tmp_path / "made")])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    ids = tiny_tokenizer(TEXT).input_ids
    assert tokenizer(TEXT).input_ids == ids
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.eos_token == "<eos>"
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    assert converted.dtype == torch.float32
    batch = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(converted(batch).logits, model(batch).logits)


def test_all_ends_are_in_the_generation_config(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer, eot_token_id=7)
    convert(file, tmp_path / "made")
    generation = GenerationConfig.from_pretrained(tmp_path / "made")
    assert generation.eos_token_id == [tiny_tokenizer.eos_token_id, 7]
    assert generation.pad_token_id == tiny_tokenizer.pad_token_id


def test_a_file_without_a_padding_token_gets_the_unknown_token(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer, padding_token_id=None)
    convert(file, tmp_path / "made")
    assert AutoTokenizer.from_pretrained(tmp_path / "made").pad_token == "<unk>"


@pytest.mark.parametrize("missing", ["blk.1.ffn_up.weight", "output_norm.weight"])
def test_missing_weights_are_refused(missing: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """transformers would fill them with random numbers."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer, leave_out=missing)
    with pytest.raises(UserError, match="lacks 1 of the model's weights"):
        convert(file, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file"):
        convert(tmp_path / "nothing.gguf", tmp_path / "made")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04 a zip archive")
    with pytest.raises(UserError, match="is no GGUF file"):
        convert(other, tmp_path / "made")


def test_a_truncated_file_and_a_taken_name_are_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer)
    whole = file.read_bytes()
    for length in (8, 200, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read as a language model"):
            convert(file, tmp_path / "made")
    with pytest.raises(UserError, match="there already"):
        convert(file, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.gguf"]
