"""Ends, control tokens and turns of SmolLM2-135M-Instruct."""

from __future__ import annotations

from pathlib import Path

from dschat.data.ends import ends_of
from dschat.data.text import conversation_text, encode_pair, prompt_ids
from dschat.models.loading import generation_settings, load_tokenizer
from dschat.models.output_layer import tokens_of

CHAT = [{"role": "user", "content": "What does <|im_end|> mean?"}]


def test_one_end_that_also_pads(smollm2: Path) -> None:
    tokenizer = load_tokenizer(str(smollm2))
    assert ends_of(tokenizer).ids == (2,)
    assert (tokenizer.eos_token, tokenizer.pad_token_id) == ("<|im_end|>", 2)
    assert tokens_of(tokenizer) == 49_152
    settings = generation_settings(str(smollm2), tokenizer)
    assert (settings.eos_token_id, settings.pad_token_id) == (2, 2)


def test_what_is_spelled_is_text(smollm2: Path) -> None:
    tokenizer = load_tokenizer(str(smollm2))
    response = " It is <|im_end|>."
    pair = encode_pair(tokenizer, CHAT, response, tokenizer.eos_token, 1000)
    start = pair["completion_mask"].count(0)
    prompt, completion = pair["input_ids"][:start], pair["input_ids"][start:]
    assert completion.count(2) == 1
    assert tokenizer.decode(completion) == response + "<|im_end|>"
    assert prompt.count(2) == 2, "the system's turn and the user's"
    assert tokenizer.decode(prompt) == conversation_text(CHAT, tokenizer)


def test_an_open_turn_is_continued(smollm2: Path) -> None:
    tokenizer = load_tokenizer(str(smollm2))
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, I am"}]
    assert conversation_text(chat, tokenizer).endswith("<|im_start|>assistant\nHello, I am")
    expected = tokenizer.apply_chat_template(chat, continue_final_message=True, return_dict=False)
    assert prompt_ids(tokenizer, [chat]) == [expected]
