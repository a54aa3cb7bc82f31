"""Prompts and responses have the same ids wherever they meet a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from dschat.data.text import conversation_text, encode_pair, end_token_id, prompt_ids, verbatim
from dschat.errors import UserError
from tokenizers.processors import TemplateProcessing

CHAT = [
    {"role": "system", "content": "Think."},
    {"role": "user", "content": "What is 1 + 1?"},
]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSES_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
)


def with_template(tokenizer: Any, template: str) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def bos_tokenizer(tiny_tokenizer: Any) -> Any:
    """Adds <bos> in front and <eos> behind, as some tokenizers do."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[
            ("<bos>", tokenizer.bos_token_id),
            ("<eos>", tokenizer.eos_token_id),
        ],
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    return tokenizer


def test_plain_prompts_pass_through(tiny_tokenizer: Any) -> None:
    assert conversation_text(" as it is\n", tiny_tokenizer) == " as it is\n"
    assert conversation_text(verbatim(" as it is\n"), tiny_tokenizer) == " as it is\n"


def test_messages_are_rendered_up_to_the_assistants_turn(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, TEMPLATE)
    assert conversation_text(CHAT, tokenizer) == (
        "<system>Think.\n<user>What is 1 + 1?\n<assistant>"
    )


def test_a_template_without_system_role_gets_it_in_the_first_message(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, REFUSES_SYSTEM)
    text = conversation_text(CHAT, tokenizer)
    assert text == "<bos><user>Think.\n\nWhat is 1 + 1?\n<assistant>"


def test_a_template_that_refuses_everything_is_explained(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, "{{ raise_exception('never') }}")
    with pytest.raises(UserError, match="roles system, user: never"):
        conversation_text(CHAT, tokenizer)


def test_chat_data_needs_a_template(tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"no chat template.*chat_template.jinja"):
        conversation_text(CHAT, tiny_tokenizer)


def test_bos_is_added_once_and_eos_never(bos_tokenizer: Any) -> None:
    bos, eos = bos_tokenizer.bos_token_id, bos_tokenizer.eos_token_id
    chat_tokenizer = with_template(bos_tokenizer, REFUSES_SYSTEM)
    rows = prompt_ids(chat_tokenizer, ["The fox", "<bos>The fox", CHAT])
    assert rows[0] == rows[1]
    for row in rows:
        assert row[0] == bos
        assert row.count(bos) == 1
        assert eos not in row


def test_prompt_ids_are_a_prefix_in_sft_whatever_the_response(bos_tokenizer: Any) -> None:
    prompt = "POST\nMy kettle broke.\nTL;DR: "
    (prefix,) = prompt_ids(bos_tokenizer, [prompt])
    for response in ("kettle", " kettle", "\nkettle"):
        encoded = encode_pair(bos_tokenizer, prompt, response, "<eos>", 100)
        ids, mask = encoded["input_ids"], encoded["completion_mask"]
        assert ids[: len(prefix)] == prefix
        assert mask == [0] * len(prefix) + [1] * (len(ids) - len(prefix))
        assert ids[-1] == bos_tokenizer.eos_token_id
        assert ids.count(bos_tokenizer.bos_token_id) == 1
        assert bos_tokenizer.decode(ids[len(prefix) : -1]) == response


def test_long_texts_are_cut_on_the_right(tiny_tokenizer: Any) -> None:
    whole = encode_pair(tiny_tokenizer, "The fox", " jumps over the dog", "<eos>", 100)
    cut = encode_pair(tiny_tokenizer, "The fox", " jumps over the dog", "<eos>", 6)
    assert cut == {name: values[:6] for name, values in whole.items()}
    assert tiny_tokenizer.eos_token_id not in cut["input_ids"]


def test_the_end_token_must_be_one_token(tiny_tokenizer: Any) -> None:
    assert end_token_id(tiny_tokenizer, "<eos>") == tiny_tokenizer.eos_token_id
    # One token, but the unknown one.
    with pytest.raises(UserError, match="--end_of_conversation_token 'ü'"):
        end_token_id(tiny_tokenizer, "ü")
    with pytest.raises(UserError, match=r"<\|end\|>.*becomes 7 tokens.*--add_eot_token"):
        encode_pair(tiny_tokenizer, "a", "b", "<|end|>", 10)


def test_padding_at_the_beginning_is_added_where_it_is_missing(
    tiny_tokenizer: Any, bos_tokenizer: Any
) -> None:
    plain = tiny_tokenizer("The fox")["input_ids"]
    pad, bos = tiny_tokenizer.pad_token_id, tiny_tokenizer.bos_token_id
    assert prompt_ids(tiny_tokenizer, ["The fox"], 1) == [[pad, *plain]]
    # OPT's tokenizer puts its one special token there itself.
    assert prompt_ids(bos_tokenizer, ["The fox"], 1) == [[bos, *plain]]
    assert encode_pair(tiny_tokenizer, "The fox", "x", "<eos>", 50, 2)["input_ids"][:3] == [
        pad,
        pad,
        plain[0],
    ]
