"""One place knows where responses end: for the layouts of well-known models and for odd folders."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from dschat.data.ends import decode_responses, ends_of
from dschat.models.loading import load_tokenizer
from transformers import AddedToken, AutoTokenizer, GenerationConfig

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content"
    " + '<|eot_id|>' }}{% endfor %}"
)
GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + m.content + '<end_of_turn>\n' }}"
    "{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
LLAMA2 = "{% for m in messages %}{{ '[INST] ' + m.content + ' ' + eos_token }}{% endfor %}"

# Control tokens beside the tokenizer's own, its eos, generation_config's ends, the template, and
# what must come of it: the token behind a response first. Layouts as these models are published.
LAYOUTS: dict[str, tuple[list[str], str, list[str], str | None, list[str]]] = {
    "Llama-3-Instruct": (
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        "<|eot_id|>",
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        LLAMA3,
        ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"],
    ),
    "Gemma-3-it": (["<end_of_turn>"], "<eos>", ["<eos>", "<end_of_turn>"], GEMMA,
                   ["<end_of_turn>", "<eos>"]),
    "Gemma-3 base": (["<end_of_turn>"], "<eos>", ["<eos>"], None, ["<eos>"]),
    "Qwen2.5-Instruct": (["<|endoftext|>", "<|im_end|>"], "<|im_end|>",
                         ["<|im_end|>", "<|endoftext|>"], CHATML,
                         ["<|im_end|>", "<|endoftext|>"]),
    "Qwen2.5 base": (["<|endoftext|>", "<|im_end|>"], "<|endoftext|>", ["<|endoftext|>"], CHATML,
                     ["<|endoftext|>", "<|im_end|>"]),
    "Phi-3": (["<|endoftext|>", "<|assistant|>", "<|end|>"], "<|endoftext|>",
              ["<|endoftext|>", "<|assistant|>", "<|end|>"], PHI3,
              ["<|end|>", "<|endoftext|>", "<|assistant|>"]),
    "Llama-2": ([], "<eos>", ["<eos>"], LLAMA2, ["<eos>"]),
    "a template that closes with text": ([], "<eos>", ["<eos>"],
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", ["<eos>"]),
}  # fmt: skip


def folder_of(tokenizer: Any, name: str, folder: Path) -> Path:
    """A folder of tokenizer and generation_config.json in the layout of a well-known model."""
    control, eos, listed, template, _ = LAYOUTS[name]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    tokenizer.eos_token, tokenizer.chat_template = eos, template
    tokenizer.save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids(listed)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    return folder


def plain_folder(tokenizer: Any, folder: Path, generation: str) -> str:
    """A folder of a tokenizer, an empty config.json and this generation_config.json."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "generation_config.json").write_text(generation)
    return str(folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_well_known_layouts(name: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder, expected = folder_of(tiny_tokenizer, name, tmp_path), LAYOUTS[name][4]
    tokenizer = load_tokenizer(str(folder))
    ends = ends_of(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(ends.ids)) == expected
    assert tokenizer.eos_token == expected[0]
    assert not ends.is_new
    # transformers would stop at all that the folder lists.
    assert set(GenerationConfig.from_pretrained(folder).eos_token_id) <= set(ends.ids)
    # What plain transformers loads knows the same ends, and so does the folder that is saved.
    assert set(ends_of(AutoTokenizer.from_pretrained(folder)).ids) == set(ends.ids)
    tokenizer.save_pretrained(folder)
    assert ends_of(load_tokenizer(str(folder))) == ends


def test_a_given_token_comes_first_and_is_remembered(tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = folder_of(tiny_tokenizer, "Gemma-3-it", tmp_path)
    tokenizer = load_tokenizer(str(folder), end_of_conversation_token="<unk>")
    expected = ["<unk>", "<eos>", "<end_of_turn>"]
    assert tokenizer.convert_ids_to_tokens(list(ends_of(tokenizer).ids)) == expected
    tokenizer.save_pretrained(folder)
    again = load_tokenizer(str(folder))
    assert again.eos_token == "<unk>", "not the turn's end, though the folder lists that one"
    assert set(ends_of(again).ids) == set(ends_of(tokenizer).ids)


def test_a_new_token_is_new(tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = str(folder_of(tiny_tokenizer, "Gemma-3 base", tmp_path))
    tokenizer = load_tokenizer(folder, "model", "<|end|>", add_eot_token=True)
    assert ends_of(tokenizer).is_new
    assert ends_of(tokenizer).ids == tuple(tokenizer.convert_tokens_to_ids(["<|end|>", "<eos>"]))
    assert not ends_of(load_tokenizer(folder, "model", "<eos>", add_eot_token=True)).is_new


@pytest.mark.parametrize(
    "listed",
    [None, [], "<eos>", [1, 4000], [1, -1], [1, True], [[1]], {"a": 1}, 1.0],
)
def test_odd_lists_add_no_end(listed: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = plain_folder(tiny_tokenizer, tmp_path, json.dumps({"eos_token_id": listed}))
    assert ends_of(load_tokenizer(folder)).ids == (tiny_tokenizer.eos_token_id,)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_an_unreadable_file_says_nothing(text: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = plain_folder(tiny_tokenizer, tmp_path, text)
    assert ends_of(load_tokenizer(folder)).ids == (tiny_tokenizer.eos_token_id,)


@pytest.mark.parametrize("file", [{"eos_token_id": 70}, {"eos_token_id": 70, "bos_token_id": 2}])
def test_a_listed_word_ends_and_a_default_of_the_config_class_does_not(
    file: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(file))
    eos = tiny_tokenizer.eos_token_id
    assert ends_of(load_tokenizer(str(tmp_path))).ids == (eos,)
    derived = {**file, "_from_model_config": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(derived))
    assert ends_of(load_tokenizer(str(tmp_path))).ids == (eos,)
    (tmp_path / "generation_config.json").write_text(json.dumps(file))
    assert ends_of(load_tokenizer(str(tmp_path))).ids == (eos, 70)


def test_another_eos_token_afterwards_is_seen(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    assert ends_of(tokenizer).ids == (tokenizer.eos_token_id,)
    tokenizer.eos_token = "<unk>"
    assert ends_of(tokenizer).ids == (tokenizer.unk_token_id,)


def test_the_text_of_a_response_has_no_end(tiny_tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([AddedToken("<turn>", special=False)])  # skip_special_tokens keeps these
    (turn,) = tokenizer.convert_tokens_to_ids(["<turn>"])
    listed = json.dumps({"eos_token_id": [1, turn]})
    tokenizer = load_tokenizer(plain_folder(tokenizer, tmp_path, listed))
    yes = tokenizer("Yes")["input_ids"]
    responses = [[*yes, turn], [*yes, 1], yes, [turn], [], [*yes, turn, *yes]]
    texts = decode_responses(tokenizer, responses)
    assert texts == ["Yes", "Yes", "Yes", "", "", "Yes<turn>Yes"]
    assert [ends_of(tokenizer).close(r) for r in responses] == [True, True, False, True, False,
                                                               False]  # fmt: skip


def test_a_special_token_may_have_no_row_and_a_word_may_not(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import torch
    from dschat.errors import UserError
    from dschat.models.loading import load_causal_lm
    from tiny import tiny_config
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(tiny_config(tiny_tokenizer)).save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(tmp_path)  # as Gemma 3's text models are published
    model = load_causal_lm(str(tmp_path), load_tokenizer(str(tmp_path)), torch.float32)
    assert model.get_input_embeddings().weight.shape[0] == 200
    tokenizer.add_tokens([AddedToken("word", special=False)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="202 tokens but the model has 200"):
        load_causal_lm(str(tmp_path), load_tokenizer(str(tmp_path)), torch.float32)
