"""Every script once, small: what it writes, where, and who may read it; no secret is among it."""

from __future__ import annotations

import json
import shlex
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
from bad_input_files import make_files
from bad_input_runs import SCRIPTS
from judge_server import JudgeServer, serving
from launch import MULTI_REFERENCE, TRAINING, environment, free_port

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
# What comes before and after the right command lines, to make the runs short and full of files.
BOARD = "--enable_tensorboard --per_device_train_batch_size 4 --per_device_eval_batch_size 4"
ONE_STEP = "--enable_test_mode --test_stop_step 1"
ADDED: dict[str, tuple[str, str]] = {
    "sft": ("", f"{BOARD} --data_split 1,0,0"),
    "reward": ("", f"{BOARD} --data_split 0,1,0"),
    "ppo": ("", ONE_STEP),
    "wpr": ("", f"{ONE_STEP} --enable_tensorboard --cost_dim 20 --top_k 8 --epsilon 0.1"),
    "apps": ("", ONE_STEP),
    "wpr_apps": ("", f"{ONE_STEP} --cost_dim 20 --top_k 8 --epsilon 0.1"),
    "grpo": ("", "--ref_a chat --ref_b chat --gamma 0.5 --max_steps 1 --max_prompt_length 200"),
    "dpo": ("", "--gamma 0.5 --rm_name reward --max_new_tokens 4"),
    "plot": ("run run_2", ""),
    "compare": ("a.jsonl b.jsonl", ""),
}


@dataclass(frozen=True)
class Done:
    """What has happened; `root` holds inputs (given, the current folder), outputs (out), HOME."""

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


def commands(out: Path) -> list[tuple[str, list[str]]]:
    """Each script with its arguments."""
    asked = []
    for name, (script, right) in SCRIPTS.items():
        before, after = ADDED.get(name, ("", ""))
        words = shlex.split(f"{before} {right} {after}")
        asked.append((str(script), [word.format(out=out / name) for word in words]))
    return asked


@pytest.fixture(scope="module")
def done(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """All scripts, through the launcher, with secrets in the environment."""
    root = tmp_path_factory.mktemp("every script")
    make_files(root / "given", tiny_tokenizer)
    asked = commands(root / "out")
    # Generated programs run as a user who may not enter pytest's folders.
    temporary = Path(tempfile.mkdtemp())
    temporary.chmod(0o755)
    for name in ("home", "out"):
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
                command, env=env, cwd=root / "given", stdout=told, stderr=told, timeout=900
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
    homes = [done.root / "home" / name for name in (".cache", ".config")]
    caches = {p for p in strangers if any(p.is_relative_to(home) for home in homes)}
    assert not {str(p.relative_to(done.root)) for p in strangers - caches if p != done.root / "out"}
    assert not [p for p in done.before if p not in done.after]


def test_nothing_is_left_in_the_temporary_folder(done: Done) -> None:
    assert not list(done.temporary.rglob("*"))


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
