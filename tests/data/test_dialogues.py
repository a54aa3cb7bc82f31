"""Plain prompts as chat messages."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from dschat.data.load import load_data
from dschat.data.schemas.dialogues import as_messages
from dschat.data.text import conversation_text, warn_of_missing_template

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("\n\nHuman: Hi\n\nAssistant:", turns("Hi")),
        (
            "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: How?\n\nAssistant:",
            turns("Hi", "Yes?", "How?"),
        ),
        (" Human: Why is it so? Assistant:", turns("Why is it so?")),
        ("Human: a\n\nb: c\nAssistant:", turns("a\n\nb: c")),
        # No dialogue, or one that is not the user's to answer: a question as it is.
        ("Name a colour. ", turns("Name a colour.")),
        ("What does 'Assistant:' mean", turns("What does 'Assistant:' mean")),
        ("\n\nAssistant: Hi\n\nAssistant:", turns("Assistant: Hi\n\nAssistant:")),
        ("\n\nHuman: \n\nAssistant:", turns("Human: \n\nAssistant:")),
        ("Rules.\n\nHuman: a\n\nAssistant:", turns("Rules.\n\nHuman: a\n\nAssistant:")),
    ],
)
def test_a_dialogue_becomes_its_turns_and_a_text_one_turn(prompt: str, expected: Any) -> None:
    assert as_messages(prompt) == expected
    assert as_messages(expected) is expected


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real data are not on this machine")
def test_real_dialogues_become_turns_that_say_the_same() -> None:
    lines = (SHARED_DATA / "hh_rlhf" / "train.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    split = 0
    for prompt in prompts:
        messages = as_messages(prompt)
        split += len(messages) > 1 or not messages[0]["content"].startswith("Human:")
        names = {"user": "Human", "assistant": "Assistant"}
        again = "".join(f"\n\n{names[m['role']]}: {m['content']}" for m in messages)
        if not messages[0]["content"].startswith("Human:"):
            assert "".join((again + "\n\nAssistant:").split()) == "".join(prompt.split())
    assert split / len(prompts) > 0.95


def test_plain_data_are_written_with_the_template_when_asked(
    makers: Any, write_rows: Any, tmp_path: Path, tiny_tokenizer: Any, caplog: Any
) -> None:
    import copy

    path = write_rows(tmp_path / "rows.jsonl", makers["preferences"], 10)
    cache = str(tmp_path / "cache")
    plain = load_data([str(path)], "reward", "0,1,0", 1, cache)
    chat = load_data([str(path)], "reward", "0,1,0", 1, cache, apply_chat_template=True)
    first = plain.train[0]
    number = first["prompt"].split()[2].rstrip("?")
    assert chat.train[0]["row"] == first["row"]
    assert chat.train[0]["prompt"] == turns(f"Question {number}?")
    assert (chat.train[0]["chosen"], chat.train[0]["rejected"]) == (
        f"Good answer {number}.",
        f"Bad answer {number}.",
    )
    tokenizer = copy.deepcopy(tiny_tokenizer)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_missing_template(plain.train, tokenizer)
        assert not caplog.records
        tokenizer.chat_template = (
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}"
        )
        warn_of_missing_template(chat.train, tokenizer)
        assert not caplog.records
        warn_of_missing_template(plain.train, tokenizer)
    assert "--apply_chat_template" in caplog.text
    text = conversation_text(chat.train[0]["prompt"], tokenizer)
    assert text == f"[user]Question {number}?[assistant]"
