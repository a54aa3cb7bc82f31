"""The embedded arithmetic task: true, disjoint, deterministic, and short in its own tokens."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.data.load import load_data
from dschat.data.prompts import build_prompts
from dschat.data.text import encode_pair
from dschat.errors import UserError
from dschat.example.arithmetic import MISTAKEN, MISTAKEN_SHARE, main, train_rows, write_datasets
from dschat.example.arithmetic_model import ROLES, TAGS, build_tokenizer, write_model
from dschat.example.arithmetic_problems import all_problems
from dschat.rewards.math_answers import MathAnswerReward, gold_answer
from transformers import AutoModelForCausalLM, AutoTokenizer

GAINS, LOSSES = ("buys", "more", "given"), ("sells", "loses", "gives")


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def understood(question: str) -> tuple[int, str, int]:
    """The problem as a reader takes it from the story alone."""
    a, b = map(int, re.findall(r"\d+", question))
    words = re.findall(r"[a-z]+", question)
    gains, loses = (any(word in words for word in group) for group in (GAINS, LOSSES))
    assert gains != loses
    return a, "+" if gains else "-", b


def compute(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arithmetic")
    write_datasets(folder, 1, train_size=2000, test_size=300)
    write_model(folder / "model", 1)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder / "model")


def solved(answer: str) -> tuple[int, str, int]:
    """The problem that an answer solves; every step of it must be true."""
    *steps, final = answer.split("\n")
    assert len(steps) == 2
    for step in steps:
        match = re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", step)
        assert match is not None
        a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
        assert compute(a, sign, b) == result
    assert final == f"#### {result}"
    assert 0 <= result <= 99
    return a, sign, b


def test_every_answer_is_right_and_every_step_true(folder: Path) -> None:
    for row in read_rows(folder / "correct/train.jsonl") + read_rows(folder / "correct/test.jsonl"):
        assert solved(row["answer"]) == understood(row["question"])


@pytest.mark.parametrize(("name", "misread"), [("adder", "-"), ("subtractor", "+")])
def test_a_reference_reads_one_operation_as_the_other_but_calculates(
    folder: Path, name: str, misread: str
) -> None:
    read, mistaken, additions = 0, 0, 0
    rows = read_rows(folder / name / "train.jsonl")
    for row in rows:
        problem, answer = understood(row["question"]), solved(row["answer"])
        other = (problem[0], "+" if problem[1] == "-" else "-", problem[2])
        additions += problem[1] == "+"
        if problem[1] != misread:
            assert answer == problem
        elif 0 <= compute(*other) <= 99:  # else there is no such mistake
            assert answer in (problem, other)
            read, mistaken = read + 1, mistaken + (answer == other)
    # Four standard errors.
    assert mistaken / read == pytest.approx(MISTAKEN_SHARE, abs=4 * (0.24 / read) ** 0.5)
    assert additions / len(rows) == pytest.approx(0.5, abs=4 * (0.25 / len(rows)) ** 0.5)


def test_the_problems_are_all_there_are() -> None:
    # For b in 1..5: a + b <= 99 leaves 99 - b values of a from 1; a - b >= 0 leaves 100 - b.
    assert len(all_problems("addition")) == sum(99 - b for b in range(1, 6))
    assert len(all_problems("subtraction")) == sum(100 - b for b in range(1, 6))


def test_no_pair_of_numbers_is_both_trained_and_tested(folder: Path) -> None:
    tests = {name: read_rows(folder / name / "test.jsonl") for name in MISTAKEN}
    assert tests["correct"] == tests["adder"] == tests["subtractor"]
    held_out = [understood(row["question"]) for row in tests["correct"]]
    assert len(set(held_out)) == len(held_out) == 300
    assert [sign for _, sign, _ in held_out] == ["+", "-"] * 150
    tested = {(a, b) for a, _, b in held_out}
    for name in MISTAKEN:
        rows = read_rows(folder / name / "train.jsonl")
        assert len({row["question"] for row in rows}) == len(rows) == 2000
        asked = [understood(row["question"]) for row in rows]
        answered = [solved(row["answer"]) for row in rows]
        assert not {(a, b) for a, _, b in asked + answered} & tested


def test_same_seed_same_files_other_seed_others(folder: Path, tmp_path: Path) -> None:
    write_datasets(tmp_path / "same", 1, train_size=20, test_size=300)
    write_datasets(tmp_path / "other", 2, train_size=2000, test_size=300)
    for name in MISTAKEN:
        test, train = f"{name}/test.jsonl", f"{name}/train.jsonl"
        assert (tmp_path / "same" / test).read_bytes() == (folder / test).read_bytes()
        assert read_rows(tmp_path / "same" / train) == read_rows(folder / train)[:20]
        for file in (test, train):
            assert (tmp_path / "other" / file).read_bytes() != (folder / file).read_bytes()


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for sizes, message in (((0, 5), "--train_size is 0"), ((5, 0), "--test_size is 0")):
        with pytest.raises(UserError, match=message):
            write_datasets(tmp_path / "data", 1, *sizes)
    with pytest.raises(UserError, match="--test_size is 9999; there are 3"):
        write_datasets(tmp_path / "data", 1, 5, 9999)
    assert not (tmp_path / "data").exists()


def test_the_data_load_as_gsm8k_and_are_short(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    path = [str(folder / "correct")]
    sft = load_data(path, "sft", "1,0,0", 1, str(tmp_path / "sft"))
    rewards = MathAnswerReward()
    for row in islice(sft.train, 300):
        pair = encode_pair(tokenizer, row["prompt"], row["chosen"], tokenizer.eos_token, 128)
        response = [i for i, m in zip(*pair.values(), strict=True) if m]
        assert len(response) <= 28
        assert len(pair["input_ids"]) - len(response) <= 26
        assert tokenizer.unk_token_id not in pair["input_ids"]
        assert tokenizer.decode(response, skip_special_tokens=True) == row["chosen"]
        answer = {"answer": "#### " + row["chosen"].split("\n")[-2]}
        assert rewards([""], [row["chosen"]], [answer]) == [4.0]
    assert len(sft.train) == 2000
    rl = load_data(path, "rl", "0,0,1", 1, str(tmp_path / "rl"))
    prompts, left_out = build_prompts(rl.eval, tokenizer, 26)
    assert (len(prompts), left_out) == (300, 0)
    assert gold_answer(prompts[0].example).isdigit()
    assert prompts[0].text.startswith("<|system|>Solve the problem step by step.")
    assert prompts[0].text.endswith("?<|assistant|>")
    assert tokenizer.decode(prompts[0].ids) == prompts[0].text


def test_the_tokenizer_has_the_tokens_of_the_task(tokenizer: Any) -> None:
    for token in (*TAGS, *ROLES, "\n", *"0123456789", "+", "-", "=", " apples"):
        assert len(tokenizer(token)["input_ids"]) == 1
    for tag in TAGS:
        assert tokenizer.decode(tokenizer(tag)["input_ids"], skip_special_tokens=True) == tag
    for role in ROLES:
        assert tokenizer.decode(tokenizer(role)["input_ids"], skip_special_tokens=True) == ""
    other = "Zebras, 42 of <them>! (really?)"
    assert tokenizer.decode(tokenizer(other)["input_ids"]) == other
    assert tokenizer.unk_token_id in tokenizer("é")["input_ids"]
    special = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert len(special) == 3
    assert None not in special
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    chat = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "5"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|user|>How many?<|assistant|>5<|end|>"


def test_the_model_is_fixed_by_the_seed(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    write_model(tmp_path / "same", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, same = (
        AutoModelForCausalLM.from_pretrained(path) for path in (folder / "model", tmp_path / "same")
    )
    weights = same.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())
    assert first.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert first.config.eos_token_id == tokenizer.eos_token_id
    assert first.config.pad_token_id == tokenizer.pad_token_id
    assert sum(p.numel() for p in first.parameters()) < 5e5


def test_the_command_writes_data_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output_dir", str(tmp_path), "--seed", "3", "--train_size", "7", "--test_size", "4"]
    assert main([*flags, "--correct_size", "5"]) == 0
    assert "7 rows to train on (5 in correct), 4 to test" in capsys.readouterr().out
    assert read_rows(tmp_path / "correct/train.jsonl") == list(islice(train_rows(3, None), 5))
    assert len(read_rows(tmp_path / "adder/train.jsonl")) == 7
    assert (tmp_path / "model/model.safetensors").is_file()
    assert main([*flags[:-1], "0"]) == 1
    assert "--test_size is 0" in capsys.readouterr().err
