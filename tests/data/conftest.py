"""Raw rows with the fields and types of the hub's data sets, for tests to write into files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.runtime.files import write_jsonl


def preference(i: int) -> dict[str, Any]:
    """Dahoas/full-hh-rlhf."""
    return {
        "prompt": f"\n\nHuman: Question {i}?\n\nAssistant:",
        "chosen": f" Good answer {i}.",
        "rejected": f" Bad answer {i}.",
    }


def summary(i: int) -> dict[str, Any]:
    """openai/summarize_from_feedback, comparisons; every fifth is a news article."""
    article = i % 5 == 4
    return {
        "info": {
            "id": f"t3_{i}",
            "post": None if article else f"My kettle number {i} broke.",
            "title": None if article else "Kettles",
            "subreddit": None if article else "tea",
            "site": "cnn" if article else None,
            "article": f"(CNN) -- Kettle {i} recalled." if article else None,
        },
        "summaries": [
            {"text": f" First of {i}", "policy": "sup4_6b", "note": "ok"},
            {"text": f" Second of {i}", "policy": "ref", "note": None},
        ],
        "choice": i % 2,
        "worker": "w",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": 4},
    }


def webgpt(i: int) -> dict[str, Any]:
    """openai/webgpt_comparisons; every fourth is a tie."""
    score = 0.0 if i % 4 == 3 else 0.75
    return {
        "question": {"dataset": "eli5", "id": str(i), "full_text": f"Why {i}?"},
        "quotes_0": {"title": ["T"], "extract": ["E"]},
        "answer_0": f"Because [1] of {i} (really) [2, 3].",
        "tokens_0": {"prefix": [1], "completion": [2]},
        "score_0": -score,
        "quotes_1": {"title": ["T"], "extract": ["E"]},
        "answer_1": f"[1] It is {i}.",
        "tokens_1": {"prefix": [1], "completion": [2]},
        "score_1": score,
    }


def apps(i: int) -> dict[str, Any]:
    """codeparrot/apps."""
    return {
        "problem_id": i,
        "question": f"Print {i}.",
        "solutions": json.dumps([f"print({i})", f"print({i} + 0)"]),
        "input_output": json.dumps({"inputs": ["", ""], "outputs": [str(i), str(i)]}),
        "difficulty": "introductory",
        "url": "https://example.org",
        "starter_code": "",
    }


def gsm8k(i: int) -> dict[str, Any]:
    """openai/gsm8k."""
    return {
        "question": f"What is {i} + 1?",
        "answer": f"It is {i}+1 = <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}",
    }


def ultrafeedback(i: int) -> dict[str, Any]:
    """trl-lib/ultrafeedback_binarized."""
    question = {"role": "user", "content": f"Tell me of {i}."}
    return {
        "chosen": [question, {"role": "assistant", "content": f"Much of {i}."}],
        "rejected": [question, {"role": "assistant", "content": f"Nothing of {i}."}],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }


def dialogue(i: int) -> dict[str, Any]:
    """Anthropic/hh-rlhf."""
    raw = preference(i)
    return {name: raw["prompt"] + raw[name] for name in ("chosen", "rejected")}


def completion(i: int) -> dict[str, Any]:
    """TRL's prompt-completion data."""
    return {"prompt": f"Say {i}.", "completion": f" It is {i}.", "source": "web"}


def chat_completion(i: int) -> dict[str, Any]:
    """The same as messages."""
    return {
        "prompt": [{"role": "user", "content": f"Say {i}."}],
        "completion": [{"role": "assistant", "content": f"It is {i}."}],
        "source": "web",
    }


def conversation(i: int) -> dict[str, Any]:
    """TRL's conversational data, of two questions."""
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Say {i}."},
            {"role": "assistant", "content": f"It is {i}."},
            {"role": "user", "content": "And again?"},
            {"role": "assistant", "content": f"Again {i}."},
        ],
        "source": "web",
    }


MAKERS = {
    "preferences": preference,
    "summaries": summary,
    "webgpt": webgpt,
    "apps": apps,
    "gsm8k": gsm8k,
    "chat preferences": ultrafeedback,
    "dialogues": dialogue,
    "completions": completion,
    "chat completions": chat_completion,
    "conversations": conversation,
}


@pytest.fixture
def makers() -> dict[str, Callable[[int], dict[str, Any]]]:
    """For every schema's name, a function from a number to a raw row."""
    return dict(MAKERS)


@pytest.fixture
def write_rows() -> Callable[..., Path]:
    """write_rows(path, make, count, start=0): raw rows as JSON lines."""

    def write(path: Path, make: Callable[[int], dict], count: int, start: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, [make(i) for i in range(start, start + count)])
        return path

    return write
