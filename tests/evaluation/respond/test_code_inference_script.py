"""inference_apps.py as users start it: on two ranks, killed and started again, wrongly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dpo_fixtures import command_line
from dschat.commands.respond import PROGRAMS
from dschat.errors import UserError
from dschat.evaluation.respond.code_run import infer_programs
from dschat.example.programs import program_rows
from dschat.rewards.code import sandbox
from launch import ROOT, environment, run_script

SCRIPT = ROOT / "inference" / "inference_apps.py"
NAME = Path("results/data/temperature=1.0/sft.jsonl")
SECONDS = 200.0


@pytest.fixture(scope="module")
def alone(code_flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that one process makes in one go."""
    folder = tmp_path_factory.mktemp("alone")
    asked = {**code_flags, "proj-path": folder, "num_responses": 8}
    infer_programs(PROGRAMS.parse(command_line(asked)))
    return (folder / NAME).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Generated programs run without bubblewrap")
def test_two_ranks_write_what_one_writes(
    code_flags: dict[str, Any], alone: bytes, tmp_path: Path
) -> None:
    asked = {**code_flags, "proj-path": tmp_path, "num_responses": 8, "batch-size": 5}
    done = run_script(SCRIPT, command_line(asked), ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / NAME).read_bytes() == alone
    for title in ("pass@1", "pass@8", "compile error", "introductory"):
        assert title in done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Generated programs run without bubblewrap")
def test_killed_and_started_again(code_flags: dict[str, Any], alone: bytes, tmp_path: Path) -> None:
    asked = {**code_flags, "proj-path": tmp_path, "num_responses": 8, "reward_workers": 1}
    partial = tmp_path / NAME.parent / ".sft.partial"
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *command_line(asked)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + SECONDS
        while not (found := lines(partial / "programs.rank-0.jsonl")):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / NAME).exists()
    kept = lines(partial / "programs.rank-0.jsonl")
    assert len(found) <= len(kept) < 64
    done = run_script(SCRIPT, command_line(asked))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"programs: {len(kept)} of 64 are done already" in done.stdout
    assert "responses:" not in done.stderr, "what was generated is not generated again"
    assert (tmp_path / NAME).read_bytes() == alone
    assert not partial.exists()


def lines(path: Path) -> list[str]:
    """Whole lines of a file that may not be there yet."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def refused(flags: dict[str, Any], match: str, **changes: Any) -> None:
    asked = {**flags, **changes}
    words = command_line({name: value for name, value in asked.items() if value is not None})
    with pytest.raises(UserError, match=match):
        infer_programs(PROGRAMS.parse(words))


@pytest.fixture
def flags(code_flags: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**code_flags, "proj-path": tmp_path}


def test_flags(flags: dict[str, Any]) -> None:
    refused(flags, "--top_k 0: expected 1 or more", top_k=0)
    refused(flags, "--test_seconds 0.0: expected", test_seconds=0)
    refused(flags, "--reward_workers 0", reward_workers=0)
    refused(flags, "Give the policy: --model", model=None, **{"no-actor-folder": None})
    refused(flags, "num.responses has no effect with --ref-scores", **{"ref-scores": True})
    data = {name: flags[name] for name in ("proj-path", "dataset")} | {"ref-scores": True}
    refused(data, "gpu has no effect with --ref-scores", gpu=0)
    refused(data, "batch.size has no effect with --ref-scores", batch_size=3)
    refused(data, "dtype has no effect with --ref-scores", dtype="bf16")
    refused(data, "--max-prompt-tokens 9 has no effect.*Give --model too", max_prompt_tokens=9)
    refused(flags, "use inference_with_rewards.py", reference_model="sft")


def test_data(flags: dict[str, Any], tmp_path: Path) -> None:
    refused(flags, "--dataset app: neither apps nor a file", dataset="app")
    refused(flags, "None of the 8 prompts has 2 tokens", max_prompt_tokens=2)
    broken = tmp_path / "broken"
    broken.mkdir()
    tests = json.dumps({"inputs": ["1"], "outputs": ["1", "2"]})
    write(broken, [{**program_rows()[0], "input_output": tests}])
    refused(flags, "no usable row .*\n.*1 x unequal numbers of inputs and outputs", dataset=broken)


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.filterwarnings("ignore:Generated programs run without bubblewrap")
def test_results_of_other_settings_are_not_mixed(flags: dict[str, Any]) -> None:
    few = {**flags, "num-samples": 1, "num_responses": 1}
    infer_programs(PROGRAMS.parse(command_line(few)))
    refused(few, "other settings: test_seconds 4.0 then, 2.0 now", test_seconds=2)
    refused(few, "other settings: top_k 5 then, 3 now", top_k=3)
    refused(few, "num_responses 1 then, 2 now", num_responses=2)


def test_a_sandbox_that_is_not_there(
    flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.choose_sandbox.cache_clear()
    monkeypatch.setattr(sandbox, "find_bubblewrap", lambda: None)
    refused(flags, "bwrap was asked for.*not installed", sandbox="bwrap")
    sandbox.choose_sandbox.cache_clear()
