"""Tiny data and models for the smoke runs of the recipes, and a judge on this machine.

    PYTHONPATH=tests python scripts/smoke.py data summaries FOLDER
    PYTHONPATH=tests python scripts/smoke.py judge evaluation/gpt4-eval.py FLAG...

The data has the columns of the data set that it stands for, and lies in a folder of that name, so
that a smoke run reads it as the real run reads the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

Row = dict[str, Any]

THINGS = ("kettle", "dog", "fox", "egg", "garden", "lamp")


def summaries(i: int) -> Row:
    """openai/summarize_from_feedback."""
    thing = THINGS[i % len(THINGS)]
    texts = [{"text": f" My {thing} broke."}, {"text": " Nothing happened."}]
    post = f"Post {i}. My {thing} broke and I need a new one."
    info = {"id": f"t3_{i}", "post": post, "subreddit": f"r{i % 3}", "article": None}
    return {"info": info, "summaries": texts if i % 2 else texts[::-1], "choice": 1 - i % 2}


def dialogues(i: int) -> Row:
    """Dahoas/full-hh-rlhf."""
    thing = THINGS[i % len(THINGS)]
    prompt = f" Human: Question {i}: how do I find my {thing}? Assistant:"
    return {"prompt": prompt, "chosen": f" Look for the {thing}.", "rejected": " I do not know."}


def questions(i: int) -> Row:
    """openai/webgpt_comparisons."""
    thing = THINGS[i % len(THINGS)]
    answers = {"answer_0": f"A {thing} is a thing [1].", "answer_1": "It is not known [1, 2]."}
    question = {"dataset": "eli5", "id": str(i), "full_text": f"Question {i}: what is a {thing}?"}
    return {"question": question, **answers, "score_0": 1.0, "score_1": -1.0}


def chats(i: int) -> Row:
    """trl-lib/ultrafeedback_binarized."""
    pair = dialogues(i)
    asked = {"role": "user", "content": pair["prompt"]}
    return {
        name: [asked, {"role": "assistant", "content": pair[name]}]
        for name in ("chosen", "rejected")
    }


def write(folder: Path, rows: Sequence[Row], test_size: int, held_out: str | None) -> None:
    """train.jsonl and, for data sets that have one, the evaluation split: the last rows."""
    from dschat.runtime.files import write_jsonl

    train_size = len(rows) - test_size
    write_jsonl(folder / "train.jsonl", rows[:train_size])
    if held_out is not None:
        write_jsonl(folder / f"{held_out}.jsonl", rows[train_size:])


def save_model(folder: Path, seed: int, tokenizer: Any, config: Any, scores: bool = False) -> None:
    """A random Llama, or one with a score per text, and its tokenizer."""
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(seed)
    (LlamaForSequenceClassification if scores else LlamaForCausalLM)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_base_model(folder: Path) -> None:
    """What step 1 starts from: its end token is Gemma's."""
    from tiny import build_tiny_tokenizer, tiny_config

    tokenizer = build_tiny_tokenizer()
    save_model(folder, 0, tokenizer, tiny_config(tokenizer, max_position_embeddings=1200))


def save_chat_models(root: Path, reward: bool) -> None:
    """Two references with a chat template, and a reward model."""
    from dschat.example.arithmetic_model import build_tokenizer
    from dschat.example.model import model_config

    tokenizer = build_tokenizer()
    for seed, name in enumerate(("a", "b")):
        save_model(root / name, seed, tokenizer, model_config(tokenizer, 128))
    if reward:
        config = model_config(tokenizer, 128)
        config.num_labels = 1
        save_model(root / "reward", 2, tokenizer, config, scores=True)


def arithmetic_rows() -> list[Row]:
    """openai/gsm8k: 16 problems to train on and 6 others."""
    from dschat.example.arithmetic import test_rows, train_rows

    return [*islice(train_rows(1, None), 16), *test_rows(1, 6)]


def program_rows() -> list[Row]:
    """codeparrot/apps: the problems with the shortest texts."""
    from dschat.example import programs

    return sorted(programs.program_rows(), key=lambda row: len(row["question"]))[:12]


def rows_of(make: Callable[[int], Row], size: int) -> Callable[[], list[Row]]:
    """A function that makes `size` rows, when it is asked to."""
    return lambda: [make(i) for i in range(size)]


# Kind -> name, rows, how many of them are held out, and as which split.
DATA: dict[str, tuple[str, Callable[[], list[Row]], int, str | None]] = {
    "summaries": ("openai/summarize_from_feedback", rows_of(summaries, 26), 6, "validation"),
    "dialogues": ("Dahoas/full-hh-rlhf", rows_of(dialogues, 26), 6, "test"),
    "questions": ("openai/webgpt_comparisons", rows_of(questions, 40), 0, None),
    "programs": ("codeparrot/apps", program_rows, 2, "test"),
    "arithmetic": ("openai/gsm8k", arithmetic_rows, 6, "test"),
    "chats": ("trl-lib/ultrafeedback_binarized", rows_of(chats, 12), 4, "test"),
}


def write_smoke_data(kind: str, root: Path) -> None:
    """All that a smoke run of a recipe needs, below `root`."""
    name, make, test_size, held_out = DATA[kind]
    write(root / name, make(), test_size, held_out)
    if kind in ("arithmetic", "chats"):
        save_chat_models(root, reward=kind == "chats")
    else:
        save_base_model(root / "model")


def judge(script: str, flags: Sequence[str]) -> None:
    """Run a judging script against a server on this machine, which prefers the longer response."""
    from judge_server import JudgeServer, completion, serving, shown

    def answer(body: dict[str, Any], n: int) -> Any:
        first, second = (len(text) for text in shown(body))
        letter = "E" if first == second else ("A" if first > second else "B")
        dialogue = "JSON" in body["messages"][0]["content"]
        verdict = json.dumps({"comparison": "by length", "choice": letter})
        return completion(verdict if dialogue else letter)

    with serving(JudgeServer(answer)) as url:
        server = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, script, *flags, "--yes"]
        code = subprocess.run(command, env={**os.environ, **server}).returncode
    sys.exit(code)


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "data":
        write_smoke_data(rest[0], Path(rest[1]))
    else:
        judge(rest[0], rest[1:])
