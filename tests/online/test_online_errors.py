"""What a user gives wrongly to step 3: one message each that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.runtime.faults import BadStepError
from dschat.settings.online_scripts import PPO, WPR
from launch import TRAINING, run_script
from online_fixtures import make_trainer, score
from safetensors.torch import save_file

CASES: list[tuple[dict[str, Any], str]] = [
    ({"actor_model_name_or_path": "./nowhere"}, "no such folder.*nowhere|nowhere.*no such folder"),
    ({"critic_model_name_or_path": "/nowhere"}, "no such folder"),
    ({"actor_model_name_or_path": None}, "Give the policy"),
    ({"output_dir": None}, "--output_dir"),
    ({"data_path": ["no/such-data"]}, "openai/summarize_from_feedback"),
    ({"data_path": ["./no_such_folder"]}, "no_such_folder"),
    ({"max_prompt_seq_len": 500, "max_answer_seq_len": 100}, "600 tokens.*context is 512.*Lower"),
    ({"max_prompt_seq_len": 3}, "max_prompt_seq_len"),
    ({"per_device_generation_batch_size": 6}, "no multiple of"),
    ({"gradient_accumulation_steps": 3}, "do not divide"),
    ({"per_device_generation_batch_size": 400}, "64 prompts"),
    ({"dtype": "fp16"}, "fp16 needs a GPU"),
    ({"dtype": "int8"}, "fp32, bf16, fp16"),
    ({"end_of_conversation_token": "<|nothing|>"}, "add_eot_token"),
    ({"actor_zero_stage": 4}, "0, 1, 2 or 3"),
    ({"offload": True}, "stage"),
    ({"temperature": 0.0}, "above 0"),
    ({"kl_ctl": -1.0}, "0 or more"),
    ({"gamma": 1.5}, "from 0 to 1"),
    ({"f_div": "fkl", "kl_estimator": "k2"}, "kl_estimator"),
    ({"f_div": "js", "f_div_low_var": True}, "f_div_low_var"),
    ({"f_div": "alpha", "f_div_alpha": 1.0}, "between 0 and 1"),
    ({"ngram": 0}, "--ngram 0"),
    ({"ngram": 2, "termination_condition": "ppl"}, "--ngram belongs to"),
    ({"repeat_times": 2}, "--repeat_times belongs to"),
    ({"parser_cutoff": 4}, "belongs to --termination_condition parsing"),
    ({"parser": "link-grammar"}, "belongs to --termination_condition parsing"),
    ({"termination_condition": "parsing", "parser_cutoff": 1}, "expected 2 or more"),
    ({"print_answers_interval": 2}, "needs --print_answers"),
    ({"enable_test_mode": True}, "test_stop_step"),
    ({"test_stop_step": 3}, "--enable_test_mode"),
    ({"actor_zero_stage": 3, "offload": True}, "critic_zero_stage"),
    ({"enable_zero3_generation_gather": True}, "ZeRO stage 0, where it is whole"),
    ({"only_optimize_lora": True}, "add --actor_lora_dim"),
    ({"actor_lora_learning_rate": 1e-3}, "add --actor_lora_dim"),
    ({"actor_lora_dim": 4, "critic_lora_learning_rate": 1e-3}, "add --critic_lora_dim"),
    ({"tensorboard_path": "logs"}, "--enable_tensorboard"),
    ({"add_eot_token": True}, "--end_of_conversation_token"),
    ({"actor_lora_dim": 4}, "actor_lora_module_name"),
]


@pytest.mark.parametrize(("changes", "message"), CASES, ids=[str(c) for c, _ in CASES])
def test_wrong_settings(settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        make_trainer(settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "above 0"),
        ({"max_iter": 0}, "1 or more"),
        ({"top_k": 0}, "1 or more"),
        ({"gaussian_perturb": 2.0}, "from 0 to 1"),
    ],
)
def test_wrong_wasserstein_settings(settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(settings(**changes), wasserstein=True)


def test_a_folder_without_a_model_says_what_it_holds(settings: Any, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="no config.json.*notes.txt"):
        make_trainer(settings(actor_model_name_or_path=str(folder)))


def test_a_language_model_is_no_reward_model(settings: Any, tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match="no reward head.*step 2"):
        make_trainer(settings(critic_model_name_or_path=str(tiny_model_dir)))


def test_references_of_different_vocabularies_are_refused(
    settings: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["zebra"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="different vocabularies.*zebra"):
        make_trainer(settings(refs=[str(folder)]))


@pytest.mark.parametrize(("token", "flag"), [("pad_token", "--pad_token"), ("eos_token", "end_of")])
def test_a_tokenizer_without_a_special_token(
    settings: Any, tiny_model_dir: Path, tmp_path: Path, token: str, flag: str
) -> None:
    import shutil

    folder = tmp_path / "no_token"
    shutil.copytree(tiny_model_dir, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config[token]
    path.write_text(json.dumps(config))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=flag):
        make_trainer(settings(actor_model_name_or_path=str(folder)))


def test_checkpoints_of_another_run_are_not_mixed_with_this_ones(settings: Any, tmp_path: Path):
    (tmp_path / "out" / "step-100").mkdir(parents=True)
    with pytest.raises(UserError, match="step-100"):
        make_trainer(settings())


def test_flags_of_the_hybrid_engine_name_what_to_use_instead() -> None:
    with pytest.raises(UserError, match="enable_hybrid_engine.*enable_zero3_generation_gather"):
        PPO.parse(["--enable_hybrid_engine"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kl_ctrl", "0.1"], "kl_ctrl.*--kl_ctl"),
        (["runs/config.txt"], "argument 'runs/config.txt'"),
        (["--seed", "3", "runs/config.yaml"], "comes before all flags"),
        (["no_such.yaml"], "no_such.yaml"),
    ],
)
def test_unknown_and_unsupported_flags(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPO.parse(arguments)


def test_a_config_file_with_an_unknown_name_or_value(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_speed: 3\n")
    with pytest.raises(UserError, match="unknown name 'learning_speed'"):
        WPR.parse([str(path)])
    path.write_text("cost_type: taxi\n")
    with pytest.raises(UserError, match="cost_type.*L2"):
        WPR.parse([str(path)])
    path.write_text("top_k: many\n")
    with pytest.raises(UserError, match="top_k"):
        WPR.parse([str(path)])


def test_a_policy_that_has_diverged_is_said(settings: Any) -> None:
    import torch

    trainer = make_trainer(settings())
    rollouts = trainer.sample(trainer.prompts[:8])
    with torch.no_grad():
        trainer.actor.module.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(BadStepError, match="diverged.*learning rate"):
        score(trainer, rollouts)


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "prefix"), [("01", "error: "), ("1", "error (rank 1): ")])
def test_ranks_tell_of_an_error_once(tmp_path: Path, broken: str, prefix: str) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import os, time\n"
        "from dschat.runtime.script import run_script\n"
        "from dschat.errors import UserError\n"
        "def main():\n"
        f"    if os.environ['RANK'] in {broken!r}:\n"
        "        raise UserError('no such folder')\n"
        "    time.sleep(1000)\n"
        "run_script(main)\n"
    )
    result = run_script(script, [], ranks=2)
    assert result.returncode == 1
    told = [line for line in result.stderr.splitlines() if "no such folder" in line]
    assert told == [prefix + "no such folder"]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_an_error_ends_a_script_with_one_message_and_code_1(settings: Any, tmp_path: Path) -> None:
    script = TRAINING / "step3_rlhf_finetuning" / "main.py"
    result = run_script(script, ["--actor_model_name_or_path", "x", "--output_dir", tmp_path])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "--critic_model_name_or_path" in result.stderr


def test_a_resumed_run_refuses_another_table_of_embeddings(settings: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.safetensors"
    embeddings = torch.randn(200, 4)
    save_file({"table": embeddings}, table)
    flags = {"regularizer": "smoothed_kl", "embedding": str(table)}
    flags |= {"enable_test_mode": True, "test_stop_step": 2, "checkpoint_steps": 1}
    trainer = make_trainer(settings(**flags))
    with trainer.report.log:
        trainer.train()
    newest = max((tmp_path / "out").glob("resumable-*"))
    make_trainer(settings(**flags, resume_from_checkpoint=str(newest)))
    # Not drawn anew: a resumed run's random state could draw the same table again.
    save_file({"table": 2 * embeddings}, table)
    with pytest.raises(UserError, match="checksum of the embedding [0-9a-f]{64} -> [0-9a-f]{64}"):
        make_trainer(settings(**flags, resume_from_checkpoint=str(newest)))
    table.unlink()
    with pytest.raises(UserError, match="--embedding .* cannot be read"):
        make_trainer(settings(**flags, resume_from_checkpoint=str(newest)))
