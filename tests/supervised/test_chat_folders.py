"""Runs from the folder of a chat model: several ends, odd generation settings, today's date."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.data import clock
from dschat.data.ends import set_ends_of
from online_fixtures import make_trainer, online_settings
from resume_fixtures import assert_same_run, forget_zero3, stop_at
from step_fixtures import run_step
from tiny import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TURNS = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    yield
    clock.freeze(None)


@pytest.fixture
def chat_model(tiny_tokenizer: Any, tmp_path: Path) -> str:
    """<eos> and <|im_end|> end responses; a temperature without `do_sample` cannot be saved."""
    from transformers import LlamaForCausalLM

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    folder = tmp_path / "chat"
    LlamaForCausalLM(tiny_config(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    odd = {"eos_token_id": [1, len(tokenizer) - 1], "temperature": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(odd))
    return str(folder)


@pytest.fixture
def chats(tmp_path: Path) -> str:
    folder = tmp_path / "chats"
    folder.mkdir()
    for name, count in (("train", 16), ("test", 4)):
        lines = []
        for i in range(count):
            asked = [{"role": "user", "content": f"What about egg {i}?"}]
            chosen = [*asked, {"role": "assistant", "content": f"It is fine {i}."}]
            rejected = [*asked, {"role": "assistant", "content": "No."}]
            lines.append(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return str(folder)


def check_folder(folder: Path) -> None:
    """Every saved folder names the same ends, whoever made it, and loads and saves anywhere."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<eos>"])
    assert tokenizer.eos_token == "<|im_end|>"
    settings = GenerationConfig.from_pretrained(folder)
    assert settings.eos_token_id == [turn, eos]
    assert settings.pad_token_id == tokenizer.pad_token_id
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder.parent / "again")


def sft(chat_model: str, chats: str, output: Path, **flags: Any) -> dict[str, float]:
    settings: dict[str, Any] = {
        "model_name_or_path": chat_model,
        "data_path": [chats],
        "data_split": "1,0,0",
        "output_dir": str(output),
        "per_device_train_batch_size": 4,
        "max_seq_len": 96,
        "learning_rate": 1e-2,
        **flags,
    }
    return run_step("sft", settings)


def test_step_1_saves_all_ends(chat_model: str, chats: str, tmp_path: Path) -> None:
    sft(chat_model, chats, tmp_path / "out")
    check_folder(tmp_path / "out")


@pytest.mark.slow
def test_dpo_saves_all_ends(chat_model: str, chats: str, tmp_path: Path) -> None:
    flags = {"ref_a": chat_model, "ref_b": chat_model, "dataset": chats, "max_length": 96}
    run_step("dpo", {**flags, "output_dir": tmp_path / "out", "per_device_train_batch_size": 8})
    check_folder(tmp_path / "out")


@pytest.mark.slow
def test_step_3_saves_all_ends(chat_model: str, chats: str, tmp_path: Path) -> None:
    flags = {"model_name_or_path": chat_model, "data_path": [chats], "data_split": "0,1,0"}
    flags |= {"output_dir": str(tmp_path / "rm"), "per_device_train_batch_size": 8}
    run_step("reward", {**flags, "max_seq_len": 96})
    (reward,) = (tmp_path / "rm").glob("step_*")
    forget_zero3()
    settings = online_settings(tmp_path, Path(chat_model), reward, num_train_epochs=1)
    settings |= {"data_path": [chats], "max_prompt_seq_len": 80, "max_answer_seq_len": 24}
    trainer = make_trainer(settings)
    turn = len(trainer.tokenizer) - 1
    with torch.no_grad():  # the turn's end is often sampled: it ends the response
        trainer.actor.module.model.lm_head.weight[turn] *= 6
    sample, seen = trainer.sample, []

    def kept(*given: Any) -> Any:
        rollouts = sample(*given)
        seen.extend(rollouts)
        return rollouts

    trainer.sample = kept
    with trainer.report.log:
        assert trainer.train()
    ends = {1, turn}
    for rollout in seen:
        for example, ended in zip(rollout.examples, rollout.ended.tolist(), strict=True):
            response = example["response_ids"]
            assert not ends.intersection(response[:-1])
            assert ended == (response[-1] in ends)
    check_folder(trainer.final_model())


class Calendar(datetime):
    """A clock that a test sets."""

    today = datetime(2024, 2, 28, 23, 59, 30)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.today


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> type[Calendar]:
    monkeypatch.setattr(clock, "datetime", Calendar)
    Calendar.today = datetime(2024, 2, 28, 23, 59, 30)
    return Calendar


def test_a_run_resumed_the_next_day_has_the_same_prompts(
    chat_model: str,
    chats: str,
    tmp_path: Path,
    calendar: type[Calendar],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sft(chat_model, chats, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        sft(chat_model, chats, tmp_path / "resumed")
    assert list((tmp_path / "resumed").glob("resumable-*"))
    calendar.today = datetime(2024, 3, 1, 9)
    sft(chat_model, chats, tmp_path / "resumed", resume_from_checkpoint="auto")
    assert_same_run(tmp_path / "resumed", tmp_path / "whole")
    assert clock.frozen() == "2024-02-28T23:59:30"
    sft(chat_model, chats, tmp_path / "new")
    assert clock.frozen() == "2024-03-01T09:00:00"


@pytest.mark.slow
def test_step_3_resumed_the_next_day(
    chat_model: str, chats: str, tmp_path: Path, calendar: type[Calendar]
) -> None:
    reward = Path(reward_like(chat_model, tmp_path / "reward"))
    grpo = {"algorithm": "grpo", "num_generations": 4}
    settings = online_settings(tmp_path, Path(chat_model), reward, **grpo)
    settings |= {"data_path": [chats], "max_prompt_seq_len": 80}
    trainer = make_trainer(settings)
    before = trainer.checkpointer.run.facts
    with trainer.report.log:
        trainer.report.log.write({"step": 0})
        trainer.checkpointer.save(trainer.iteration, trainer._progress())
    calendar.today = datetime(2031, 7, 4)
    again = make_trainer({**settings, "resume_from_checkpoint": "auto"})
    assert again.checkpointer.run.facts == before
    assert clock.frozen() == "2024-02-28T23:59:30"
    assert "28 Feb 2024" in again.prompts[0].text


def reward_like(chat_model: str, folder: Path) -> str:
    from transformers import LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    set_ends_of(tokenizer, chat_model, None)
    LlamaForSequenceClassification(tiny_config(tokenizer, num_labels=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
