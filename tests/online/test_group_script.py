"""gsm8k_grpo.py as users start it, and its settings."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.loading import load_tokenizer
from dschat.online.run import build_trainer, train_online
from dschat.online.setup import load_prompts, start
from dschat.runtime.files import read_jsonl
from dschat.settings.online import OnlineConfig
from dschat.settings.online_scripts import GRPO
from launch import MULTI_REFERENCE, run_script
from online_fixtures import command_line, grpo_config
from safetensors.torch import load_file
from tiny import tiny_config
from transformers import AutoModelForCausalLM

SCRIPT = MULTI_REFERENCE / "gsm8k_grpo.py"
TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + ':' + m['content'][-24:] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
Metrics = Callable[[str | Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two references, padded differently, whose tokenizer knows the tags; 24 sums, 6 of them test.

    An untrained model writes a tag now and then, so that rewards differ within a group.
    """
    root = tmp_path_factory.mktemp("group")
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(TAGS)
    tokenizer.chat_template = TEMPLATE
    for name, padding in (("a", 0), ("b", 12)):
        torch.manual_seed(padding)
        config = tiny_config(tokenizer, vocab_size=len(tokenizer) + padding, initializer_range=0.2)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            model.lm_head.weight[-4 - padding :] *= 3
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    (root / "data").mkdir()
    for name, numbers in (("train", range(18)), ("test", range(18, 24))):
        lines = [
            json.dumps({"question": f"What is {n} + {n % 7}?", "answer": f"Add. #### {n + n % 7}"})
            for n in numbers
        ]
        (root / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def arguments(folder: Path, output: Path, **changes: Any) -> list[str]:
    """A command line; a value of None is a bare flag."""
    flags = {
        "dataset": folder / "data",
        "ref_a": folder / "a",
        "ref_b": folder / "b",
        "gamma": 0.1,
        "model_out": output,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_generations": 8,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "max_completion_length": 12,
        "max_prompt_length": 200,
        "pass_k": [1, 2],
        **changes,
    }
    return command_line(**flags)


def parsed(argv: list[str]) -> OnlineConfig:
    return GRPO.parse(argv)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        (2, {"kl_type": "rkl", "alpha": 0.3, "reference_residency": "one"}),
        (
            3,
            {
                "kl_type": "fkl",
                "beta": 0.3,
                "scale_rewards": None,
                "num_iterations": 2,
                "max_steps": 4,
                "model": "b",
            },
        ),
        (0, {"penalty": "sinkhorn_divergence", "top_k": 16, "algorithm": "rloo"}),
    ],
)
def test_two_ranks_are_one_rank(
    folder: Path, tmp_path: Path, read_metrics: Metrics, stage: int, changes: dict[str, Any]
) -> None:
    found = []
    if "model" in changes:  # its logits are cut to the width of the other's
        changes = {**changes, "model": folder / changes["model"]}
    for ranks in (1, 2):
        output = tmp_path / f"ranks{ranks}"
        size = {"per_device_train_batch_size": 8 // ranks, "gradient_accumulation_steps": 2}
        argv = arguments(
            folder, output, **{**size, "zero_stage": stage, "deepspeed": None, **changes}
        )
        if ranks == 1:
            config = parsed(argv)
            build_trainer(config, *start(config)).train()
        else:
            run = run_script(SCRIPT, argv, ranks)
            assert run.returncode == 0, run.stderr[-3000:]
        found.append((read_metrics(output), load_file(output / "model.safetensors")))
    (one, weights), (two, other_weights) = found
    assert len(one) == len(two) == 4  # before, two steps, after
    assert any(row.get("reward_std", 0) > 0 for row in one)
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if not name.startswith(("time/", "padding_share")):  # micro-batches are smaller
                assert other[name] == pytest.approx(value, rel=2e-3, abs=2e-5), name
    for name, value in weights.items():
        torch.testing.assert_close(other_weights[name], value, atol=3e-4, rtol=1e-3)


@pytest.mark.slow
def test_reference_samples_are_drawn_once_and_read_afterwards(folder: Path, tmp_path: Path) -> None:
    flags = {
        "kl_type": "fkl",
        "reference_samples": 2,
        "data_output_path": tmp_path / "data",
        "stop_token": "<answer>",
    }
    stop = load_tokenizer(str(folder / "a")).convert_tokens_to_ids("<answer>")

    outputs = []
    for name in ("first", "second"):
        argv = arguments(folder, tmp_path / name, **flags)
        run = run_script(SCRIPT, argv)
        assert run.returncode == 0, run.stderr[-3000:]
        assert "reference samples: " in run.stdout + run.stderr
        outputs.append(run.stderr)
        (path,) = (tmp_path / "data").glob("reference_samples-*.jsonl")
        rows = read_jsonl(path)
        assert len(rows) == 18
        assert {k for row in rows for k in row["references"]} == {0, 1}
        assert all(len(row["response_ids"]) == 2 for row in rows)
        samples = [ids for row in rows for ids in row["response_ids"]]
        assert any(ids[-1] == stop for ids in samples)
        assert not any(stop in ids[:-1] for ids in samples)
    # The second run had none to draw: no progress bar of drawing.
    assert "samples of reference 0:   0%" in outputs[0]
    assert "samples of reference 0:   0%" not in outputs[1]
    configs = [(tmp_path / n / "config.yaml").read_text() for n in ("first", "second")]
    assert "kl_type: fkl" in configs[0]
    # A run's own settings can be given back.
    again = ["--model_out", str(tmp_path / "third")]
    assert parsed([str(tmp_path / "first" / "config.yaml"), *again]).reference_samples == 2


def test_the_published_command_with_its_flags(folder: Path, tmp_path: Path) -> None:
    argv = (
        f"--dataset gsm8k --ref_a {folder / 'a'} --ref_b {folder / 'b'} --alpha 0.5 --beta 0.5 "
        "--kl_type rkl --gamma 0.1 --model_out ./runs/gsm8k_rkl_a05 "
        "--per_device_train_batch_size 4 --gradient_accumulation_steps 8 --max_steps 2000 --bf16"
    )
    online = parsed(argv.split())
    assert online.data_path == ["gsm8k"]
    assert online.references() == [(str(folder / "a"), 0.5), (str(folder / "b"), 0.5)]
    assert (online.kl_ctl, online.gamma, online.dtype) == (0.1, 1.0, "bf16")
    assert online.actor_model_name_or_path == str(folder / "a")
    assert online.planned_iterations(7473, 4) == 2000
    # The flag that the warning about dropout names.
    assert online.actor_dropout is None
    assert parsed([*argv.split(), "--actor_dropout", "0"]).actor_dropout == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_type": "fkl", "penalty": "wasserstein"}, "--kl_type belongs to --regularizer kl"),
        ({"fkl_estimator": "per_state"}, "--fkl_estimator belongs to --kl_type fkl"),
        ({"reference_samples": 2}, "--reference_samples belongs to --kl_type fkl"),
        ({"kl_type": "fkl", "reference_samples": 9}, "expected 1 to --num_generations 8"),
        (
            {"kl_type": "fkl", "fkl_estimator": "per_state", "reference_residency": "one"},
            "needs all references at once",
        ),
        ({"f_div": "js"}, "--f_div belongs to --regularizer f_divergence"),
        ({"top_k": 3}, "--top_k belongs to --regularizer wasserstein or sinkhorn_divergence"),
        ({"alpha": 1.5}, "--alpha 1.5"),
        ({"output_dir": "x"}, "--output_dir and --model_out are one setting"),
        ({"bf16": None, "fp16": None}, "contradict each other"),
        ({"num_iterations": 2, "eval_steps": 3}, "expected a multiple of --num_iterations 2"),
        ({"generation_batch_size": 5}, "and a divisor of"),
        ({"num_generations": 1}, "give 2 or more"),
        ({"gamma": -1}, "--gamma -1"),
        ({"logging_steps": 10}, "every step is written"),
        ({"max_steps": 0}, "--max_steps 0"),
        ({"num_iterations": 2, "max_steps": 3}, "--max_steps 3: expected a multiple"),
        ({"penalty": "sinkhorn_divergence", "cost_dim": 7}, "--cost_dim belongs to"),
        ({"penalty": "wasserstein", "epsilon": -1}, "--epsilon -1"),
        ({"penalty": "wasserstein", "gaussian_perturb": 4}, "--gaussian_perturb 4"),
        (
            {"penalty": "f_divergence", "f_div": "tv", "f_div_alpha": 0.3},
            "--f_div_alpha belongs to --f_div alpha",
        ),
        ({"penalty": "f_divergence", "f_div": "js", "kl_estimator": "k1"}, "--kl_estimator"),
        ({"kl_type": "fkl", "kl_estimator": "k1"}, "--kl_estimator belongs to --kl_type rkl"),
    ],
)
def test_settings_that_cannot_be_meant(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        parsed(arguments(folder, tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_prompt_length": 512}, "--max_prompt_length 512 [+] --max_completion_length 12"),
        ({"ref_b": "no/such"}, "--ref_b no/such"),
        ({"num_generations": 3}, "--num_generations 3 does not divide the 16 responses"),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size 0"),
        ({"learning_rate": -1}, "--learning_rate -1"),
    ],
)
def test_errors_of_the_trainer_name_this_scripts_flags(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_online(parsed(arguments(folder, tmp_path / "out", **changes)))


def test_a_reward_model_beside_checked_answers(
    folder: Path, tmp_path: Path, tiny_reward_dir: Path
) -> None:
    shutil.copytree(tiny_reward_dir, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text(TEMPLATE)
    rewards = {"reward": ["math", "reward_model:0.1"], "rm_name": tmp_path / "rm"}
    config = parsed(arguments(folder, tmp_path / "out", **rewards))
    trainer = build_trainer(config, *start(config))
    metrics = trainer.run_iteration(trainer.prompts[:2])
    parts = metrics["reward/math"] + 0.1 * metrics["reward/reward_model"]
    assert metrics["reward/reward_model"] != 0
    assert metrics["reward"] == pytest.approx(parts, abs=1e-5)


def test_plain_prompts_get_the_chat_template_when_asked(folder: Path, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"prompt": f"{n} + 1?", "answer": "#### 2"}) + "\n" for n in range(3))
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    tokenizer = load_tokenizer(str(folder / "a"))
    for asked, text in ((False, "0 + 1?"), (True, "u:0 + 1? a:")):
        flags = {"refs": folder / "a", "dataset": tmp_path, "output_dir": tmp_path / "out"}
        config = grpo_config(**flags, apply_chat_template=asked)
        prompts = [
            *load_prompts(config, tokenizer),
            *load_prompts(config, tokenizer, held_out=True),
        ]
        assert text in [p.text for p in prompts]
        assert len({"a:" in p.text for p in prompts}) == 1


def test_an_unknown_kl_type_is_answered_with_the_known_ones(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments(folder, tmp_path, kl_type="jeffreys"))
    assert "rkl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [{"kl_type": "rkl"}, {"kl_type": "fkl", "eval_steps": 1}],
)
def test_a_run_stopped_by_sigterm_goes_on(
    folder: Path, tmp_path: Path, read_metrics: Metrics, changes: dict[str, Any]
) -> None:
    def trainer(output: str, **more: Any) -> Any:
        size = {"max_steps": 3, "num_train_epochs": 3}
        config = parsed(arguments(folder, tmp_path / output, **{**size, **changes, **more}))
        return build_trainer(config, *start(config))

    whole = trainer("whole")
    with whole.report.log:
        assert whole.train()
    cut = trainer("cut")
    plain, calls = cut.sample, []

    def signalled(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given)

    cut.sample = signalled
    with cut.report.log:
        assert not cut.train()
    assert (tmp_path / "cut" / f"resumable-{cut.iteration}").is_dir()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    with pytest.raises(UserError, match=r"--gamma 0.1 -> 0.2"):
        trainer("cut", resume_from_checkpoint="auto", gamma=0.2)
    again = trainer("cut", resume_from_checkpoint="auto")
    assert again.iteration == cut.iteration == 1
    with again.report.log:
        assert again.train()
    kept = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(out)]
        for out in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert kept[0] == kept[1]
    models = [load_file(tmp_path / out / "model.safetensors") for out in ("whole", "cut")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
