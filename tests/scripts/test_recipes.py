"""The recipes' commands: what they would run, with the real settings."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from launch import ROOT
from recipes import POLICIES, Command, command_of, commands, run_recipe

SCRIPTS = sorted((ROOT / "scripts").glob("*/*.sh"))
PUBLISHED = "".join(
    (ROOT / "docs" / page).read_text(encoding="utf-8")
    for page in ("training.md", "multi_reference.md")
)
Fake = Callable[..., tuple[int, str]]
# What a smoke run may change: paths, sizes and lengths.
PLACES = {
    *("data_path", "dataset", "model_name_or_path", "actor_model_name_or_path", "model"),
    *("critic_model_name_or_path", "reward_model", "rm_name", "ref_a", "ref_b", "references"),
    *("output_dir", "model_out", "proj_path", "filepath", "savepath", "output"),
    *("model_name_a", "model_name_b", "models", "reference_models", "runs"),
}
SIZES = {
    *("per_device_train_batch_size", "per_device_eval_batch_size", "eval_batch_size"),
    *("per_device_generation_batch_size", "per_device_training_batch_size", "batch_size"),
    *("gradient_accumulation_steps", "num_train_epochs", "max_steps", "checkpoint_steps"),
    *("max_seq_len", "max_prompt_seq_len", "max_answer_seq_len", "max_length"),
    *("max_prompt_length", "max_completion_length", "max_new_tokens", "max_prompt_tokens"),
    *("num_samples", "num_sample", "num_responses", "cost_dim", "top_k", "reward_workers"),
    "generation_batch_size",  # of GRPO: what the two above make of it
}


@cache
def planned(recipe: str) -> list[Command]:
    return commands(recipe)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_syntax(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_every_recipe_is_tested() -> None:
    assert {path.parent.name for path in SCRIPTS} == set(POLICIES)


@pytest.mark.parametrize("recipe", POLICIES)
def test_the_scripts_take_the_real_settings(recipe: str) -> None:
    """Known flags with values that each script accepts; nothing is run."""
    for command in planned(recipe):
        command.config()


@pytest.mark.parametrize("recipe", POLICIES)
def test_a_smoke_run_differs_in_paths_and_sizes_only(recipe: str, tmp_path: Path) -> None:
    smoke = commands(recipe, SMOKE="1", GPUS="none", OUT=str(tmp_path))
    assert [(c.script, c.names()) for c in smoke] == [
        (c.script, c.names()) for c in planned(recipe)
    ]
    for small, real in zip(smoke, planned(recipe), strict=True):
        a, b = small.settings(), real.settings()
        differing = {name for name in a if a[name] != b[name]}
        assert differing <= PLACES | SIZES, (small.script, differing)
    assert not list(tmp_path.iterdir())  # a dry run writes nothing


def of_docs(script: str) -> Command:
    """The command for a script in the documentation, without its comments and its folder."""
    for block in re.findall(r"```bash\n(.*?)```", PUBLISHED, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(rf"(^|\s){re.escape(script)}\s+--", line):
                return command_of(line.replace(script, f"x/{script}"))
    raise AssertionError(f"docs/ has no command for {script}")


@pytest.mark.parametrize(
    ("place", "script"),
    [
        ("step1_supervised_finetuning", "main.py"),
        ("step2_reward_model_finetuning", "main.py"),
        ("step3_rlhf_finetuning", "main_wpr.py"),
    ],
)
def test_tldr_is_the_published_command(place: str, script: str) -> None:
    """docs/training.md has the commands of the authors, for 8 GPUs."""
    found = next(c for c in planned("tldr") if c.script == f"{place}/{script}")
    text = PUBLISHED[PUBLISHED.index(f"training/{place}\n") :]
    line = next(line for line in text.replace("\\\n", " ").splitlines() if script in line)
    published = command_of(line.replace(script, f"{place}/{script}"))
    assert found.launcher == published.launcher
    a, b = found.settings(), published.settings()
    differing = {name for name in a if a[name] != b[name]}
    added = {"checkpoint_steps", "resume_from_checkpoint"}
    assert differing <= PLACES | added
    assert added <= differing
    assert a["data_path"] == b["data_path"]


@pytest.mark.parametrize(
    ("recipe", "script"), [("gsm8k", "gsm8k_grpo.py"), ("ultrafeedback", "dpo_training.py")]
)
def test_several_references_have_the_published_flags(recipe: str, script: str) -> None:
    """Of the short command in the documentation, for one GPU; the recipe adds others."""
    found = commands(recipe, GPUS="0")[0]
    published = of_docs(script)
    a = found.settings()
    text = [w for w in published.flags if not w.startswith("#")]
    b = Command([], found.script, text).settings()
    assert set(published.names()) <= set(found.names())
    names = {n[2:].replace("model_out", "output_dir") for n in published.names()}
    differing = {name for name in names if a[name] != b[name]}
    # The reward model's published name is not the one it has on the hub.
    assert differing <= {"output_dir", "rm_name"}
    assert Path(a["output_dir"]).name == Path(b["output_dir"]).name


@pytest.mark.parametrize("recipe", POLICIES)
@pytest.mark.parametrize("gpus", ["none", "3", "0,1"])
def test_the_global_batch_is_the_same_on_any_gpus(recipe: str, gpus: str) -> None:
    ranks = 1 if gpus == "none" else len(gpus.split(","))
    found = [c for c in commands(recipe, GPUS=gpus) if "resume_from_checkpoint" in c.flags[-2]]
    expected = [c for c in planned(recipe) if "resume_from_checkpoint" in c.flags[-2]]
    assert len(found) == len(expected) > 0
    for command, other in zip(found, expected, strict=True):
        assert command.launcher[-1] == ("python" if gpus == "none" else "1234")
        assert global_batch(command, ranks) == global_batch(other, 8)


def global_batch(command: Command, ranks: int) -> int:
    settings = command.settings()
    names = ("per_device_train_batch_size", "per_device_training_batch_size")
    at_once = next(settings[name] for name in names if name in settings)
    return ranks * at_once * settings["gradient_accumulation_steps"]


def test_gpus_that_do_not_divide_the_batch_are_refused() -> None:
    code, told = run_recipe("tldr/1_sft.sh", DRY_RUN="1", GPUS="0,1,2")
    assert code == 1
    assert "512 is no multiple of 8 rows on each of 3 ranks" in told


def test_the_environment_and_arguments_come_first(tmp_path: Path) -> None:
    changed = {"SFT_LEARNING_RATE": "7e-5", "MODEL": "my/model", "OUT": str(tmp_path / "a b")}
    sft = commands("tldr", POLICIES="js", **changed)[0].settings()
    assert sft["learning_rate"] == 7e-5
    assert sft["model_name_or_path"] == "my/model"
    assert sft["output_dir"] == f"{tmp_path}/a b/models/summarize/sft"


def test_a_policy_with_other_settings_has_a_name() -> None:
    given = {"DRY_RUN": "1", "GPUS": "none", "NAME": "wpr001", "KL_CTL": "0.01"}
    code, told = run_recipe("tldr/3_ppo_wpr.sh", **given)
    assert code == 0, told
    settings = command_of(told).settings()
    assert settings["kl_ctl"] == 0.01
    assert Path(settings["output_dir"]).name == "wpr001"
    code, told = run_recipe("tldr/run_all.sh", **given)
    assert code == 1
    assert "names one policy" in told


def test_which_policies_are_compared() -> None:
    found = Counter(c.script for c in commands("hh-rlhf", POLICIES="kl wpr js"))
    assert found["inference/inference_with_rewards.py"] == 4  # the fine-tuned model too
    assert found["evaluation/gpt4-eval.py"] == 5  # three against it, two against KL


FAKE = """
source "$RECIPE_SH"
step "$FOLDER/recipe.done" bash -c 'eval "$1"' run "$1" "$VALUE"
echo continued
"""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Runs a command as a training step of a recipe that writes to tmp_path/model."""
    script = tmp_path / "fake.sh"
    script.write_text(FAKE)
    folder = tmp_path / "model"
    folder.mkdir()

    def run(command: str, value: str = "1", **variables: str) -> tuple[int, str]:
        names = {"RECIPE_SH": str(ROOT / "scripts" / "recipe.sh"), "FOLDER": str(folder)}
        env = {**names, "VALUE": value, "VENV": "none", "PATH": "/usr/bin:/bin", **variables}
        done = subprocess.run(
            ["bash", str(script), command], env=env, cwd=folder, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_finished_step_is_skipped(fake: Fake, tmp_path: Path) -> None:
    train = f"cd {tmp_path}/model; mkdir -p resumable-1; mkdir step-2; echo trained"
    code, told = fake(train)
    assert code == 0
    assert "trained" in told
    code, told = fake(train)
    assert code == 0
    assert "already there" in told
    assert "continued" in told
    code, told = fake(train, value="2")
    assert code == 1
    assert "of another command" in told
    code, told = fake(train, value="2", KEEP="1")
    assert code == 0


def test_a_stopped_step_is_not_finished(fake: Fake, tmp_path: Path) -> None:
    """After SIGTERM a run saves a checkpoint and leaves with exit code 0."""
    model = tmp_path / "model"
    code, told = fake(f"cd {model}; mkdir step-2; sleep 0.05; mkdir resumable-3")
    assert code == 1
    assert "is not finished" in told
    assert "continued" not in told
    assert not (model / "recipe.done").exists()
    code, told = fake(f"cd {model}; mkdir step-4")
    assert code == 0
    assert (model / "recipe.done").exists()


def test_a_failed_step_ends_the_recipe(fake: Fake) -> None:
    code, told = fake("mkdir step-1; exit 3")
    assert code == 3
    assert "continued" not in told
