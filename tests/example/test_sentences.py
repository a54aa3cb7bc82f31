"""The sentence task: its words, its check, and a run of it on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.example import sentence_check
from dschat.example.sentence_check import PARTS, SentenceReward, faults, succeeded
from dschat.example.sentences import HELD_OUT, NOUNS, split_words
from dschat.example.sentences import main as write_data
from dschat.settings.online_scripts import GRPO
from dschat.settings.registry import import_file
from online_fixtures import command_line
from tiny import build_tiny_tokenizer, tiny_config

REWARD = f"{sentence_check.__file__}:SentenceReward"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_no_word_is_in_both_parts() -> None:
    train, held_out = split_words()
    assert len(held_out) == HELD_OUT
    assert len(train) >= 200
    assert sorted(train + held_out) == sorted(set(NOUNS.split()))
    assert all(word.isalpha() and word.islower() for word in train + held_out)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The quick river runs past our old house.", []),
        ("  Did the mayor's river-boat ever see the River again?\n", []),
        ("At 12, the river freezes; nobody swims.", []),
        ("The quick rivers run past our old house.", ["word"]),
        ("A quick stream runs past our old house.", ["word"]),
        ("The river near the river runs past our house.", ["word"]),
        ("The river runs past. It is old and cold.", ["plain"]),
        ("the river runs past our very old house.", ["plain"]),
        ("The river runs past our very old house", ["plain"]),
        ('"The river runs past our very old house."', ["plain"]),
        ("Sure: the river runs past our very old house.", ["plain"]),
        ("The river runs past\nour very old house.", ["plain"]),
        ("The river runs past our very old house...", ["plain"]),
        ("**The river** runs past our very old house.", ["plain"]),
        ("The river runs past us.", ["length"]),
        ("The river runs past " + "a b c d e f g " * 3 + "house.", ["length"]),
        ("The river very very slowly runs past us.", ["repeats"]),
        ("The river has water, warm water, cold water.", ["repeats"]),
        ("", ["length", "plain", "word"]),
    ],
)
def test_the_check(response: str, expected: list[str]) -> None:
    assert sorted(faults(response, "river")) == expected
    assert succeeded(response, {"word": "river"}) == (not expected)


def test_the_reward_pays_for_the_parts_and_for_both() -> None:
    responses = [
        "The quick river runs past our old house.",
        "A quick stream runs past our old house.",
        "The river runs past.",
        "No.",
    ]
    rewards, parts = SentenceReward().explained([""] * 4, responses, [{"word": "river"}] * 4)
    assert rewards == [2.0, 0.5, 0.5, 0.0]
    assert parts == {
        "word": [1.0, 0.0, 1.0, 0.0],
        "sentence": [1.0, 1.0, 0.0, 0.0],
        "success": [1.0, 0.0, 0.0, 0.0],
    }


def test_the_data(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path), "--train_size", "300", "--test_size", "50"]
    assert write_data(flags) == 0
    parts = {}
    for name in ("train", "test"):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        parts[name] = [json.loads(line) for line in lines]
    assert len(parts["train"]) == 300
    assert len({row["word"] for row in parts["test"]}) == 50
    words = {row["word"] for row in parts["train"]}
    assert len(words) == len(split_words()[0])
    assert not words & {row["word"] for row in parts["test"]}
    for row in parts["train"]:
        assert f'"{row["word"]}"' in row["messages"][0]["content"]
    assert write_data([*flags[:2], "--test_size", "201"]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("answer_reward", 1.0), ("eval_steps", 5), ("answer_extraction", ["tags"])],
)
def test_flags_of_checked_answers_are_refused(name: str, value: Any) -> None:
    flags = command_line(refs=["model"], output_dir="out", **{name: value})
    with pytest.raises(UserError, match=f"--{name}"):
        GRPO.parse([*flags, "--reward", REWARD])


@pytest.mark.slow
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dschat.online.run import train_online
    from transformers import LlamaForCausalLM

    tokenizer: Any = build_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_data(["--output_dir", str(tmp_path / "data"), "--train_size", "4", "--test_size", "6"])
    model, data, run = (str(tmp_path / name) for name in ("model", "data", "run"))
    flags = f"--refs {model} --dataset {data} --output_dir {run} --max_completion_length 8 "
    flags += "--per_device_train_batch_size 4 --gradient_accumulation_steps 1 --max_steps 2 "
    flags += "--num_generations 2 --learning_rate 1e-2 --max_prompt_length 64"

    def by_length(*texts: list[Any]) -> tuple[list[float], dict[str, list[float]]]:
        return [float(len(text)) for text in texts[2]], {p: [0.0] * len(texts[2]) for p in PARTS}

    # A random model says nothing that is worth learning from.
    used = import_file(sentence_check.__file__, "--reward").SentenceReward
    monkeypatch.setattr(used, "explained", by_length)
    # DeepSpeed cannot begin again in the process of a test that comes after this one.
    monkeypatch.setattr("dschat.runtime.distributed.shut_down", lambda: None)
    train_online(GRPO.parse([*flags.split(), "--reward", REWARD]))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward/word", "reward/sentence", "reward/success"} <= set(rows[0])
