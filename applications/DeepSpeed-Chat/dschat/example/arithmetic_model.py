"""The embedded arithmetic task's tokenizer, with a chat template, and its untrained model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dschat.data.schemas.gsm8k import SYSTEM_PROMPT
from dschat.example.arithmetic_problems import NAMES, STORIES, THINGS
from dschat.example.model import model_config, whole_word_tokenizer, write_untrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD_TOKEN, EOS_TOKEN, UNK_TOKEN = "<|pad|>", "<|end|>", "<|unk|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH = 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each word of the task, digit, tag and line end.

    The system text, the same in every prompt, is one token: it would otherwise be most of what the
    small model reads. Printable ASCII outside the task falls apart into characters.
    """
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary = {token: i for i, token in enumerate((PAD_TOKEN, EOS_TOKEN, UNK_TOKEN, *ROLES))}
    for piece in [*_words(), *map(chr, range(32, 127)), "\n"]:
        for token, _ in split.pre_tokenize_str(piece):
            vocabulary.setdefault(token, len(vocabulary))
    return whole_word_tokenizer(
        vocabulary,
        split,
        (*TAGS, SYSTEM_PROMPT),
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNK_TOKEN,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
    )


def _words() -> list[str]:
    """All words of the task, with the blank before them and without."""
    stories = [story for of_operation in STORIES.values() for story in of_operation]
    words = re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", " ".join(stories)))
    return sorted({f"{blank}{word}" for word in (*words, *NAMES, *THINGS) for blank in ("", " ")})


def write_model(folder: Path, seed: int) -> None:
    """Write the tokenizer and a model with random weights, fixed by `seed`, to `folder`."""
    tokenizer = build_tokenizer()
    write_untrained(folder, seed, tokenizer, model_config(tokenizer, MAX_LENGTH))
