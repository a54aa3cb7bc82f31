"""Hostile programs: none gets more than a failing one, and the machine is afterwards as before."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards import code_execution
from dschat.rewards.code import launching
from dschat.rewards.code.identity import lease_user
from dschat.rewards.code_execution import CodeExecutionReward, Limits, choose_sandbox
from hostile_programs import PROGRAMS, Hostile

pytestmark = pytest.mark.slow

LIMITS = Limits(test_seconds=1, program_seconds=2, memory_mb=120, output_mb=1, processes=3)
PATIENT = dataclasses.replace(LIMITS, test_seconds=30, program_seconds=60)
"""For programs that end by themselves, on a machine with much else to do."""

REWARDS = {"compile_error": -1.0, "runtime_error": -0.6, "timeout": -0.6, "wrong": -0.3}
EXPECTED = "EXPECTED-" + "0123456789abcdef" * 2
SECRET = "swordfish"


@pytest.fixture(scope="module", params=["bwrap", "limits"])
def reward(request: pytest.FixtureRequest) -> CodeExecutionReward:
    """Two programs at once, under tight limits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return CodeExecutionReward(workers=2, sandbox=request.param, limits=LIMITS)
        except UserError as error:
            pytest.skip(str(error))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the programs attack; everything is checked to be as it was."""
    monkeypatch.setenv("DSCHAT_TEST_SECRET", SECRET)
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    (folder / "tests.json").write_text(json.dumps({"outputs": [EXPECTED]}))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    environment, scratch = environment_now(), left_in_temporary_folder()
    # The runner's text is the command of all that descends from it: with a mark they are told from
    # those of other tests, which may run at the same time.
    mark = uuid.uuid4().hex
    monkeypatch.setattr(launching, "RUNNER_SOURCE", f"# {mark}\n{launching.RUNNER_SOURCE}")
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        yield {"folder": folder, "pid": os.getpid(), "port": server.getsockname()[1]}
        with pytest.raises(TimeoutError):
            server.accept()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert environment_now() == environment
    assert left_in_temporary_folder() <= scratch
    end = time.monotonic() + 10
    while left := processes_with(mark):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.01)


def environment_now() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def left_in_temporary_folder() -> set[str]:
    """Files of the names that hostile programs give theirs."""
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("dschat-test-")}


def processes_with(mark: str) -> set[int]:
    """All living processes that have it in their command."""
    found = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{process}/cmdline").read_bytes():
                found.add(int(process))
        except OSError:
            continue
    return found


def example() -> dict[str, Any]:
    return {"input_output": json.dumps({"inputs": ["1 2\n"], "outputs": [EXPECTED + "\n"]})}


@pytest.mark.parametrize(
    ("reward", "hostile"),
    [
        pytest.param(sandbox, hostile, id=f"{sandbox}-{hostile.name.replace(' ', '-')}")
        for sandbox in ("bwrap", "limits")
        for hostile in PROGRAMS
        if not (sandbox == "limits" and hostile.sockets)  # limits alone do not stop these
    ],
    indirect=["reward"],
)
def test_hostile_program(
    hostile: Hostile, reward: CodeExecutionReward, outside: dict[str, Any]
) -> None:
    if reward.sandbox == "limits" and not hostile.harmless:
        with lease_user() as user:
            if user is None:
                pytest.skip("under limits alone it would run as this test's user")
    program = hostile.program
    if len(program) < 2000:
        program = program.format(**outside)
    good = f"print({EXPECTED!r})"
    if "timeout" not in hostile.verdicts:
        reward = CodeExecutionReward(workers=2, sandbox=reward.sandbox, limits=PATIENT)
    hostile_reward, good_reward = reward(["", ""], [program, good], [example(), example()])
    (test,) = reward.results[0].tests
    assert test.verdict in hostile.verdicts, test
    assert hostile_reward == REWARDS[test.verdict]
    assert good_reward == 1.0, reward.results[1]
    assert SECRET not in test.output
    assert EXPECTED not in test.output
    assert len(test.output) <= 1000
    if reward.sandbox == "bwrap" and hostile.name == "home and working folders":
        assert test.output.count("No such file") == 4


def test_there_are_many() -> None:
    assert len(PROGRAMS) >= 25
    assert len({hostile.name for hostile in PROGRAMS}) == len(PROGRAMS)


def test_all_at_once(
    reward: CodeExecutionReward, outside: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten loops over two workers: five times the limit of one, and the order is kept."""
    running: list[int] = []
    most = 0
    lock, run_program = threading.Lock(), code_execution.run_program

    def counted(*arguments: Any) -> Any:
        nonlocal most
        with lock:
            running.append(1)
            most = max(most, len(running))
        try:
            return run_program(*arguments)
        finally:
            with lock:
                running.pop()

    monkeypatch.setattr(code_execution, "run_program", counted)
    programs = ["while True: pass"] * 10
    programs[3] = f"print({EXPECTED!r})"
    start = time.monotonic()
    rewards = reward([""] * 10, programs, [example()] * 10)
    assert rewards == [-0.6] * 3 + [1.0] + [-0.6] * 6
    assert most == 2
    starting = 1.0  # of a sandbox, for each of the 5 that follow each other
    assert time.monotonic() - start < 5 * (LIMITS.program_seconds + starting)
    assert choose_sandbox(reward.sandbox) == reward.sandbox
