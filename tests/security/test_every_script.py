"""Every script once, small: what it writes, where, and who may read it; no secret is among it."""

from __future__ import annotations

import copy
import json
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dpo_fixtures import command_line, save_model
from inference_fixtures import save_reward_model
from judge_server import JudgeServer, serving, two_models
from launch import DPO, MULTI_REFERENCE, ROOT, STEP1, STEP2, TRAINING, environment, free_port
from online_fixtures import online_settings
from preferences import rows

STEP3 = TRAINING / "step3_rlhf_finetuning"
SECRETS = {
    name: f"{name.lower().replace('_', '-')}-5d41402abc4b2a76b9719d911017c592"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
}
# The libraries are imported once; each script then has a process of its own.
DRIVER = """
import io, json, os, runpy, sys
import datasets, deepspeed, torch, transformers, trl
from dschat.runtime.script import leave
os.umask(0o022)
for script, arguments in json.load(open(sys.argv[-1])):
    print("=====", script, flush=True)
    child = os.fork()
    if not child:
        sys.argv = [script, *arguments]
        sys.path[0] = os.path.dirname(script)
        sys.stdin = io.StringIO("1\\n" * 9)
        runpy.run_path(script, run_name="__main__")
        leave()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"===== {script} failed")
print("===== all done", flush=True)
"""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + ':' + m['content'][-24:] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
PROGRAM = {
    "question": "Print 1.",
    "solutions": json.dumps(["print(1)"]),
    "input_output": json.dumps({"inputs": [""], "outputs": ["1\n"]}),
    "starter_code": "",
    "difficulty": "introductory",
}


@dataclass(frozen=True)
class Done:
    """What has happened. `root` holds inputs, outputs (out), HOME and the current folder."""

    root: Path
    temporary: Path
    told: str
    before: dict[Path, tuple[int, int]]
    after: dict[Path, tuple[int, int]]


def snapshot(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Permissions and time of all files and folders below."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if "__pycache__" not in path.parts:
                status = path.lstat()
                is_file = stat.S_ISREG(status.st_mode)
                found[path] = (status.st_mode, status.st_mtime_ns if is_file else 0)
    return found


def write_data(folder: Path, examples: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for name, part in (("train", examples), ("test", examples[:3])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def commands(root: Path, tokenizer: Any) -> list[tuple[Path, dict[str, Any]]]:
    """Each kind of script with its flags."""
    given, out = root / "given", root / "out"
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    a, b = (save_model(given / name, tokenizer, i) for i, name in enumerate(("a", "b")))
    reward = save_reward_model(given / "reward", tokenizer)
    pairs = write_data(given / "pairs", rows(12))
    sums = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)]
    numbers = write_data(given / "sums", sums)
    problems = write_data(given / "problems", [PROGRAM] * 8)
    common = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    tune = {"data_path": pairs, "max_seq_len": 64, "enable_tensorboard": True, **common}
    online = online_settings(given, a, reward, enable_test_mode=True, test_stop_step=1)
    del online["data_output_path"]
    code = {**online, "data_path": problems, "sandbox": "limits", "reward_workers": 1}
    del code["critic_model_name_or_path"]
    samples = {"filepath": given / "a.jsonl", "savepath": out / "s" / "sampled.jsonl"}
    answers = {"proj-path": out / "answers", "batch-size": 4, "no-actor-folder": True, "model": a}
    answers |= {"max-new-tokens": 5, "num-samples": 3}
    two_models(given, "AB=A")
    judged = {"dataset": "summarize"}
    models = {"model_name_a": given / "a.jsonl", "model_name_b": given / "b.jsonl", "yes": True}
    references = {"ref_a": a, "ref_b": b, "gamma": 0.5}
    wpr = {"cost_dim": 20, "top_k": 8, "epsilon": 0.1, "enable_tensorboard": True}
    return [
        (STEP1, {**tune, "model_name_or_path": a, "data_split": "1,0,0", "output_dir": out / "1"}),
        (STEP2, {**tune, "model_name_or_path": a, "data_split": "0,1,0", "output_dir": out / "2"}),
        (STEP3 / "main_wpr.py", {**online, **wpr, "output_dir": out / "3"}),
        (STEP3 / "main_apps.py", {**code, "output_dir": out / "apps", "max_answer_seq_len": 16}),
        (
            MULTI_REFERENCE / "gsm8k_grpo.py",
            {
                **references,
                "dataset": numbers,
                "model_out": out / "grpo",
                "per_device_train_batch_size": 4,
                "num_generations": 4,
                "max_steps": 1,
                "max_completion_length": 8,
                "max_prompt_length": 200,
            },
        ),
        (
            DPO,
            {
                **references,
                **common,
                "dataset": pairs,
                "output_dir": out / "dpo",
                "max_length": 64,
                "rm_name": reward,
                "max_new_tokens": 4,
            },
        ),
        (
            ROOT / "inference" / "inference_with_rewards.py",
            {**answers, "reward-model": reward, "dataset": pairs},
        ),
        (
            ROOT / "inference" / "inference_apps.py",
            {**answers, "dataset": problems, "sandbox": "limits", "reward_workers": 1},
        ),
        (ROOT / "evaluation" / "tools" / "sample_from_dataset.py", {**judged, **samples}),
        (
            ROOT / "evaluation" / "gpt4-eval.py",
            {**judged, **models, "output": out / "judged" / "judged.jsonl"},
        ),
        (
            ROOT / "evaluation" / "human-eval.py",
            {
                **judged,
                "model_a": given / "a.jsonl",
                "model_b": given / "b.jsonl",
                "output": out / "judged" / "human.jsonl",
            },
        ),
    ]


@pytest.fixture(scope="module")
def done(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """All scripts, through the launcher, with secrets in the environment."""
    root = tmp_path_factory.mktemp("every script")
    asked = [(str(s), command_line(f)) for s, f in commands(root, tiny_tokenizer)]
    # Generated programs run as a user who may not enter pytest's folders.
    temporary = Path(tempfile.mkdtemp())
    temporary.chmod(0o755)
    for name in ("home", "cwd", "out"):
        (root / name).mkdir()
    (root / "given" / "driver.py").write_text(DRIVER)
    (root / "given" / "asked.json").write_text(json.dumps(asked))
    watched = (root, TRAINING, MULTI_REFERENCE)
    before = snapshot(*watched)
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "1"]
    command += ["--master_port", str(free_port())]
    command += [str(root / "given" / "driver.py"), str(root / "given" / "asked.json")]
    with serving(JudgeServer()) as url:
        env = environment(
            HOME=str(root / "home"),
            TMPDIR=str(temporary),
            OPENAI_BASE_URL=url,
            NO_PROXY="127.0.0.1",
            PYTHONDONTWRITEBYTECODE="1",
            **SECRETS,
        )
        env = {k: v for k, v in env.items() if not k.startswith(("XDG_", "HF_HOME"))}
        with open(root / "told.txt", "wb") as told:
            code = subprocess.run(
                command, env=env, cwd=root / "cwd", stdout=told, stderr=told, timeout=400
            ).returncode
    text = (root / "told.txt").read_text(encoding="utf-8")
    (root / "told.txt").unlink()
    assert code == 0, text[-4000:]
    assert "===== all done" in text, text[-4000:]
    yield Done(root, temporary, text, before, snapshot(*watched))
    shutil.rmtree(temporary)


def test_no_secret_is_told_or_written(done: Done) -> None:
    written = [p for p in done.after if p not in done.before and p.is_file()]
    assert len(written) > 40
    for name, secret in SECRETS.items():
        assert secret not in done.told, name
        found = [str(p) for p in written if secret.encode() in p.read_bytes()]
        assert not found, name


def test_everything_lies_in_the_output_folder(done: Done) -> None:
    changed = [p for p, status in done.after.items() if done.before.get(p) != status]
    out = done.root / "out"
    strangers = {p for p in changed if not p.is_relative_to(out)}
    # Caches of libraries, where their own settings put them.
    caches = {p for p in strangers if p.is_relative_to(done.root / "home" / ".cache")}
    assert not {str(p.relative_to(done.root)) for p in strangers - caches if p != done.root / "out"}
    assert not [p for p in done.before if p not in done.after]


def test_nothing_is_left_in_the_temporary_folder(done: Done) -> None:
    assert not list(done.temporary.rglob("*"))
    assert not list((done.root / "cwd").iterdir())


def test_permissions_are_ordinary(done: Done) -> None:
    """The scripts ran under umask 022."""
    modes = {p: m for p, (m, _) in done.after.items() if p.is_relative_to(done.root / "out")}
    files = {p: stat.S_IMODE(m) for p, m in modes.items() if stat.S_ISREG(m)}
    folders = {p: stat.S_IMODE(m) for p, m in modes.items() if stat.S_ISDIR(m)}
    assert len(files) + len(folders) == len(modes)  # no links
    relative = {str(p.relative_to(done.root)): oct(m) for p, m in files.items() if m != 0o644}
    assert not relative
    assert not {str(p): oct(m) for p, m in folders.items() if m != 0o755}


def test_no_half_written_file_is_left(done: Done) -> None:
    names = {p.name for p in (done.root / "out").rglob("*")}
    assert not {n for n in names if n.startswith(".") and n != ".cache"}
