"""Wrong files of every kind beside right ones, made once; the table of bad inputs names them."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from dpo_fixtures import save_model
from inference_fixtures import save_reward_model
from judge_server import two_models, write_responses
from preferences import rows
from runs_fixtures import online_rows, write_run

SHORT_CONTEXT = 24
PROGRAM = {
    "question": "Print 1.",
    "solutions": json.dumps(["print(1)"]),
    "input_output": json.dumps({"inputs": [""], "outputs": ["1\n"]}),
    "starter_code": "",
    "difficulty": "introductory",
}


def make_files(root: Path, tokenizer: Any) -> None:
    """Fill `root`; the names say what is wrong, those that say nothing are right."""
    _models(root, tokenizer)
    _data(root)
    _results(root)
    _settings(root)


def write_lines(path: Path, lines: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _models(root: Path, tokenizer: Any) -> None:
    model = save_model(root / "model", tokenizer, 0)
    save_model(root / "model_b", tokenizer, 1)
    reward = save_reward_model(root / "reward", tokenizer)
    save_reward_model(root / "three_labels", tokenizer, num_labels=3)
    save_model(root / "short_context", tokenizer, 0, max_position_embeddings=SHORT_CONTEXT)
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<teapot>"])
    save_model(root / "other_tokens", other, 0)
    save_reward_model(root / "other_reward", other)
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    save_model(root / "chat", chat, 0)
    (root / "trained" / "step-5").mkdir(parents=True)
    shutil.copytree(model, root / "trained" / "step-5" / "actor")

    def copied(name: str, source: Path = model) -> Path:
        return Path(shutil.copytree(source, root / name))

    for path in copied("no_tokenizer").glob("*token*"):
        path.unlink()
    (copied("no_weights") / "model.safetensors").unlink()
    for name, source in (("torn_weights", model), ("torn_reward", reward)):
        weights = copied(name, source) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    (copied("not_json") / "config.json").write_text("{hidden_size: 32")
    config = json.loads((model / "config.json").read_text())
    for name, changes in (
        ("unknown_type", {"model_type": "teapot"}),
        ("wrong_shape", {"hidden_size": 64}),
    ):
        (copied(name) / "config.json").write_text(json.dumps({**config, **changes}))
    told = json.loads((model / "tokenizer_config.json").read_text())
    del told["pad_token"]
    (copied("no_pad") / "tokenizer_config.json").write_text(json.dumps(told))
    (root / "no_model").mkdir()
    (root / "no_model" / "notes.txt").write_text("nothing")
    (root / "notes.txt").write_text("nothing")


def _data(root: Path) -> None:
    write_lines(root / "pairs" / "train.jsonl", rows(16))
    write_lines(root / "pairs" / "test.jsonl", rows(5, first=100))
    for name in ("train", "test"):
        write_lines(root / "problems" / f"{name}.jsonl", [PROGRAM] * 8)
        sums = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)]
        write_lines(root / "sums" / f"{name}.jsonl", sums)
    (root / "empty.jsonl").write_bytes(b"")
    (root / "latin.jsonl").write_bytes('{"prompt": "Caf\xe9"}\n'.encode("latin-1") * 9)
    (root / "no_json.jsonl").write_text("prompt: one\nprompt: two\n")
    (root / "list.json").write_text('[{"prompt": "one", "chosen": "two"')
    write_lines(root / "numbers.jsonl", [1, 2, 3])
    write_lines(root / "texts.jsonl", [{"text": row["prompt"]} for row in rows(9)])
    write_lines(root / "prompts.jsonl", [{"prompt": row["prompt"]} for row in rows(9)])
    write_lines(root / "mute.jsonl", [{**row, "chosen": " "} for row in rows(9)])
    same = [{**row, "rejected": row["chosen"]} for row in rows(9)]
    write_lines(root / "same.jsonl", same)
    write_lines(root / "number_prompts.jsonl", [{**row, "prompt": 3} for row in rows(9)])
    chats = [[{"role": "user", "content": row["prompt"]}] for row in rows(16)]
    answer = {"role": "assistant", "content": "Yes."}
    no = {"role": "assistant", "content": "No."}
    talks = [{"chosen": [*chat, answer], "rejected": [*chat, no]} for chat in chats]
    write_lines(root / "talks.jsonl", talks)
    write_lines(
        root / "half_talks.jsonl", [{**t, "rejected": c} for t, c in zip(talks, chats, strict=True)]
    )
    write_lines(root / "untested.jsonl", [{**PROGRAM, "input_output": ""}] * 9)
    write_lines(root / "unanswered.jsonl", [{"question": "1?", "answer": "one"}] * 9)
    (root / "table.csv").write_text("prompt,chosen\na,b\n")
    (root / "torn.parquet").write_bytes(b"PAR1 and no more")
    (root / "no_train").mkdir()
    write_lines(root / "no_train" / "test.jsonl", rows(3))
    (root / "saved").mkdir()
    (root / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (root / "unreadable.jsonl").symlink_to("/proc/self/mem")


def _results(root: Path) -> None:
    two_models(root, "AB=A")
    write_responses(root / "three.jsonl", [("Another prompt", "x", 1.0)] * 3)
    (root / "torn.jsonl").write_text(
        '{"prompt": "a", "response": "b", "reward": 1}\n{"prompt": "a"'
    )
    write_lines(root / "no_response.jsonl", [{"prompt": "a", "reward": 1.0}])
    write_lines(root / "no_reward.jsonl", [{"prompt": "a", "response": "b"}])
    write_lines(root / "word_reward.jsonl", [{"prompt": "a", "response": "b", "reward": "high"}])
    (root / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (root / "long_number.jsonl").write_text('{"prompt": "a", "reward": ' + "9" * 5000 + "}\n")
    metrics = online_rows(3, lambda step: float(step))
    write_run(root / "run", metrics)
    write_run(root / "run_2", metrics, seed=2)
    write_run(root / "run_of_step_1", [{"step": 1, "loss": 2.0}], penalty=None)
    write_run(root / "run_without_steps", [{"loss": 2.0}])
    write_run(root / "run_without_rows", [])
    for name, text in (("torn_settings", "seed: [1"), ("list_settings", "- seed")):
        write_run(root / f"run_{name}", metrics)
        (root / f"run_{name}" / "config.yaml").write_text(text)
    (root / "checkpoint" / "resumable-3").mkdir(parents=True)
    (root / "checkpoint" / "resumable-3" / "complete.json").write_text('{"step": 3}')
    (root / "old_run" / "resumable-7").mkdir(parents=True)
    (root / "old_steps" / "step-100").mkdir(parents=True)


def _settings(root: Path) -> None:
    (root / "list.yaml").write_text("- --seed\n- 3\n")
    (root / "torn.yaml").write_text("seed: 3\nlearning_rate: [1e-5\n")
    (root / "torn.json").write_text('{"seed": 3,')
    (root / "latin.yaml").write_bytes("# caf\xe9\nseed: 3\n".encode("latin-1"))
    (root / "unknown.yaml").write_text("sead: 3\n")
    (root / "typed.yaml").write_text("seed: three\n")
    (root / "switch.yaml").write_text("offload: perhaps\n")
    (root / "engine.yaml").write_text("enable_hybrid_engine: true\n")
    (root / "table_of_seed.yaml").write_text("seed: {a: 1}\n")
    (root / "empty.yaml").write_text("")
    (root / "ds_torn.json").write_text("{")
    (root / "ds_batch.json").write_text('{"train_batch_size": 7}')
    (root / "ds_list.json").write_text("[1]")
    (root / "ds_zero.json").write_text('{"zero_optimization": 3}')
