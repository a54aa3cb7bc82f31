"""The choice of the sandbox, bubblewrap's command, and how programs end up with a verdict."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards.code import bubblewrap, identity, launching, sandbox
from dschat.rewards.code.bubblewrap import bubblewrap_command
from dschat.rewards.code.interpreter import Interpreter, find_interpreter
from dschat.rewards.code_execution import CodeExecutionReward, Limits, choose_sandbox

LIMITS = Limits(test_seconds=20, memory_mb=256)


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    sandbox.choose_sandbox.cache_clear()
    yield
    sandbox.choose_sandbox.cache_clear()


@pytest.fixture
def no_bubblewrap(fresh_choice: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "find_bubblewrap", lambda: None)


@pytest.fixture
def broken_bubblewrap(fresh_choice: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bwrap that is refused its namespaces; anybody may run it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = Path(folder, "bwrap")
        program.write_text(
            "#!/bin/sh\necho 'bwrap: No permissions to create namespace' >&2\nexit 1"
        )
        program.chmod(0o755)
        for module in (sandbox, launching):
            monkeypatch.setattr(module, "find_bubblewrap", lambda: str(program))
        yield str(program)


def test_auto_without_bubblewrap_warns_once(no_bubblewrap: None) -> None:
    with pytest.warns(RuntimeWarning, match="not installed.*sockets.*test cases"):
        assert choose_sandbox("auto") == "limits"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_sandbox("auto") == "limits"


def test_bwrap_without_bubblewrap(no_bubblewrap: None) -> None:
    with pytest.raises(UserError, match="not installed.*Install"):
        CodeExecutionReward(sandbox="bwrap")


@pytest.mark.slow
def test_bubblewrap_that_does_not_work(broken_bubblewrap: str) -> None:
    with pytest.raises(UserError, match="No permissions to create namespace"):
        choose_sandbox("bwrap")
    with pytest.warns(RuntimeWarning, match="No permissions to create namespace"):
        assert choose_sandbox("auto") == "limits"


def test_unknown_choice() -> None:
    with pytest.raises(UserError, match="'docker'.*auto, bwrap, limits"):
        choose_sandbox("docker")  # type: ignore[arg-type]


def test_no_workers() -> None:
    with pytest.raises(UserError, match="--reward_workers is 0"):
        CodeExecutionReward(workers=0, sandbox="limits")


def test_bubblewrap_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib/python3.11/site-packages").mkdir(parents=True)
    monkeypatch.setattr(bubblewrap, "_can_disable_user_namespaces", lambda program: True)
    monkeypatch.setattr(
        Interpreter, "packages", property(lambda self: [self.library / "python3.11/site-packages"])
    )
    interpreter = Interpreter(tmp_path / "bin/python3.11", tmp_path / "lib")
    command = bubblewrap_command("bwrap", interpreter, Limits(scratch_mb=3), "print(1)", 9)
    before, python = command[: command.index("--")], command[command.index("--") + 1 :]
    assert python == ["/python/bin/python3.11", "-I", "-S", "-B", "-c", "print(1)"]
    for option in ("--unshare-all", "--disable-userns", "--die-with-parent", "--new-session"):
        assert option in before
    assert "--clearenv" in before
    assert not {"--bind", "--dev-bind", "--share-net", "--proc"} & set(before)
    binds = {before[i + 1] for i, option in enumerate(before) if option == "--ro-bind"}
    libraries = {"/usr/lib", "/usr/lib64", "/lib", "/lib64"}
    assert binds - libraries == {str(interpreter.executable), str(interpreter.library)}
    # Packages are covered, the root is read-only, and /tmp is small.
    covered = before.index("/python/lib/python3.11/site-packages")
    assert before[covered - 1] == "--tmpfs"
    assert before[before.index("--chdir") - 2 : before.index("--chdir")] == ["--remount-ro", "/"]
    assert before[before.index("/tmp") - 3 : before.index("/tmp")] == [
        "--size",
        "3145728",
        "--tmpfs",
    ]


def test_interpreter_is_readable_by_all() -> None:
    interpreter = find_interpreter(for_others=True)
    for path in (interpreter.executable, *interpreter.executable.parents):
        assert path.stat().st_mode & stat.S_IXOTH
    assert list(interpreter.library.glob("python3.*/os.py"))


def test_leased_users_differ() -> None:
    with identity.lease_user() as first, identity.lease_user() as second:
        if first is None or second is None:
            pytest.skip("only root has other users to lease")
        assert first != second
        assert {first, second} <= set(identity.FREE_USERS)


@pytest.fixture(scope="module", params=["bwrap", "limits"])
def reward(request: pytest.FixtureRequest) -> CodeExecutionReward:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return CodeExecutionReward(workers=2, sandbox=request.param, limits=LIMITS)
        except UserError as error:
            pytest.skip(str(error))


def verdicts(
    reward: CodeExecutionReward,
    program: str,
    inputs: list[Any],
    outputs: list[Any],
    function: str | None = None,
    stop_when_decided: bool = True,
) -> list[str]:
    tests = {"inputs": inputs, "outputs": outputs}
    if function is not None:
        tests["fn_name"] = function  # type: ignore[assignment]
    example = {"input_output": json.dumps(tests)}
    (result,) = reward.run([program], [example], stop_when_decided)
    return [test.verdict for test in result.tests]


ORDINARY = {
    "reads lines": "import sys\nprint(sum(map(int, sys.stdin)))",
    "opens 0": "print(sum(map(int, open(0).read().split())))",
    "reads bytes": "import os\nprint(sum(map(int, os.read(0, 100).split())))",
    "says exit": "import sys\nprint(int(input()) + int(input()))\nsys.exit()",
    "writes in a thread": "import threading, time\n"
    "def f():\n    time.sleep(0.1)\n    print(int(input()) + int(input()))\n"
    "threading.Thread(target=f).start()",
    "writes at exit": "import atexit\natexit.register(lambda: print(3))",
    "leaves a file unflushed": "out = open(1, 'w', closefd=False)\nout.write('3')",
    "prints when deleted": "class A:\n    def __del__(self): print(3)\na = A()",
    "replaces output, uses the old": "import io, sys\nsys.stdout = io.StringIO()\n"
    "sys.__stdout__.write('3')",
    "needs the harness's imports": "print(sum(Counter([1, 1, 1]).values()))\n"
    "x: List[int] = sorted(accumulate([1]))\nlru_cache(None)(sqrt)(4.0)",
    "is guarded": "if __name__ == '__main__':\n    print(3)",
    "has a long integer": "print(len(str(10**5000)) - 4998)",
    "writes a file of its own": "open('x', 'w').write('3')\nprint(open('x').read())",
    "uses a process": "import os\nif os.fork():\n    os.wait()\nelse:\n    print(3)",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_programs_pass(reward: CodeExecutionReward, name: str) -> None:
    assert verdicts(reward, ORDINARY[name], ["1\n2\n"] * 2, ["3\n"] * 2) == ["passed"] * 2


CALLS = {
    "an equal to everything": (
        "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
        "wrong",
    ),
    "a set": ("def f(x): return {3}", "wrong"),
    "no number": ("def f(x): return float('nan')", "wrong"),
    "a deep list": (
        "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
        "runtime_error",
    ),
    "deep JSON sent": (
        "import os\ndef f(x):\n    os.write(3, b'[' * 10**6)\n    os._exit(0)",
        "wrong",
    ),
    "a cycle": ("def f(x):\n    a = []\n    a.append(a)\n    return a", "wrong"),
    "printed only": ("def f(x): print(3)", "wrong"),
    "exit before the answer": ("import os\ndef f(x): os._exit(0)", "runtime_error"),
    "patched json": ("import json\njson.dumps = lambda x: 'true'\ndef f(x): return 0", "wrong"),
    "another name": ("def g(x): return 3", "runtime_error"),
    "error": ("def f(x): return 1 / 0", "runtime_error"),
    "too many arguments": ("def f(x, y): return 3", "runtime_error"),
    "its own answer sent": (
        "import os\ndef f(x):\n    os.write(3, b'4')\n    os._exit(0)",
        "wrong",
    ),
    "both answers sent": ("import os\ndef f(x):\n    os.write(3, b'3,')\n    return 4", "wrong"),
    "right": ("def f(x): return x + 1", "passed"),
    "right, in a class": ("class Solution:\n    def f(self, x): return x + 1", "passed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_calls(reward: CodeExecutionReward, name: str) -> None:
    program, expected = CALLS[name]
    assert verdicts(reward, program, [[2]], [3], "f") == [expected]


@pytest.mark.slow
def test_long_integers_go_in_and_out(reward: CodeExecutionReward) -> None:
    digits = "7" * 5000
    text = f'{{"fn_name": "f", "inputs": [[{digits}]], "outputs": [{digits[:-1]}8]}}'
    rewards = reward([""], ["def f(x): return x + 1"], [{"input_output": text}])
    assert rewards == [1.0]


@pytest.mark.slow
def test_tests_share_no_memory(reward: CodeExecutionReward) -> None:
    program = "import math\nprint(getattr(math, 'seen', 0))\nmath.seen = 1"
    assert verdicts(reward, program, ["", ""], ["0", "0"]) == ["passed", "passed"]


@pytest.mark.slow
def test_what_follows_an_error(reward: CodeExecutionReward) -> None:
    program = "x = int(input())\nif x == 2:\n    import os\n    os.abort()\nprint(x)"
    inputs = ["1", "2", "3", "4"]
    assert verdicts(reward, program, inputs, ["1", "2", "3", "5"]) == [
        "passed",
        "runtime_error",
        "not_run",
        "not_run",
    ]
    assert verdicts(reward, program, inputs, ["1", "2", "3", "5"], stop_when_decided=False) == [
        "passed",
        "runtime_error",
        "passed",
        "wrong",
    ]


@pytest.mark.slow
def test_time_of_all_tests_together() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        limits = Limits(test_seconds=30, program_seconds=3)
        reward = CodeExecutionReward(workers=1, limits=limits)
    program = "import time\ntime.sleep(0.8)\nprint(3)"
    start = time.monotonic()
    found = verdicts(reward, program, [""] * 20, ["3"] * 20, stop_when_decided=False)
    assert time.monotonic() - start < 20 * 0.8
    assert found[0] == "passed"
    assert found[3:] == ["timeout"] * 17


LEAVING = {
    "nothing": "pass",
    "a file": "open('x', 'w').write('y')",
    "folders in folders": "for _ in range(1500):\n    os.mkdir('x')\n    os.chdir('x')",
    "folders side by side": "for i in range(1500): os.mkdir(str(i))",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVING)
def test_nothing_is_left_on_the_disk(
    reward: CodeExecutionReward, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        program = f"import os\nprint(os.getcwd())\n{LEAVING[name]}"
        assert verdicts(reward, program, [""], ["3"]) == ["wrong"]
        assert os.listdir(folder) == []


@pytest.mark.slow
def test_large_input_and_output(reward: CodeExecutionReward) -> None:
    text = "1" * 3_000_000
    assert verdicts(reward, "print(input())", [text], [text]) == ["passed"]


def orphans(users: set[int]) -> set[int]:
    """Dead processes of these users that wait for init: their parent has gone."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and fields[1] == "1" and os.stat(f"/proc/{name}").st_uid in users:
                found.add(int(name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_no_zombies_are_left_to_init(
    reward: CodeExecutionReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Init reaps nothing in many containers: a zombie per program would fill the process table."""
    users: set[int] = set()  # of this test's programs; others may run at the same time

    @contextlib.contextmanager
    def lease() -> Iterator[int | None]:
        with identity.lease_user() as user:
            users.add(os.geteuid() if user is None else user)
            yield user

    monkeypatch.setattr(sandbox, "lease_user", lease)
    before = orphans({os.geteuid(), *identity.FREE_USERS})
    example = {"input_output": json.dumps({"inputs": [""], "outputs": ["3"]})}
    limits = Limits(test_seconds=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        quick = CodeExecutionReward(workers=2, sandbox=reward.sandbox, limits=limits)
    programs = ["print(3)", "print(4)", "1 / 0", "import time\ntime.sleep(9)", "x", "("]
    quick([""] * 6, programs, [example] * 6)
    assert users
    assert orphans(users) <= before
