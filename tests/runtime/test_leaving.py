"""How a script that has done its work ends: as Python does, but for threads of C++."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch import environment

BEGIN = """
import atexit, os, sys, tempfile, threading, time, types
from concurrent.futures import ThreadPoolExecutor
from dschat.runtime.script import run_script
def end(main):
    if main.__doc__ is None:
        sys.modules["torch"] = types.ModuleType("torch")  # as if it had been imported
    main() if sys.argv[1] == "python" else run_script(main)
"""
# A callback that a thread of a process group calls is in Python when the main thread ends.
C_THREAD = """
def main():
    "imports torch"
    import torch, torch.distributed as dist
    store, groups, kept, begun = dist.HashStore(), {}, [], threading.Event()
    def join(rank):
        groups[rank] = dist.ProcessGroupGloo(store, rank, 2)
    both = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    [thread.start() for thread in both]
    [thread.join() for thread in both]
    def callback(future):
        begun.set()
        time.sleep(1)
    work = groups[0].allreduce([torch.ones(1)])
    sys.kept = [groups, work, work.get_future().then(callback)]
    sys.kept.append(groups[1].allreduce([torch.ones(1)]))
    begun.wait()
    print("done")
end(main)
"""
LEFTOVERS = """
def main():
    pool = sys.pool = ThreadPoolExecutor(2)  # nobody shuts it down: its threads wait for work
    print(pool.submit(str.upper, "pool").result())
    threading.Timer(0.3, print, ["thread"]).start()
    sys.folder = tempfile.TemporaryDirectory()
    open(os.path.join(sys.folder.name, "x"), "w").write("x")
    print(sys.folder.name)
    atexit.register(lambda: print("at exit", threading.active_count()))
    sys.stdout.write("no end of line")
end(main)
"""
OUTPUT = """
def main():
    print("x" * 10)
end(main)
"""
SLOW = """
def main():
    threading.Timer(60, print).start()
    print("done", flush=True)
end(main)
"""


def start(program: str, how: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + program, how],
        env=environment(PYTHONUNBUFFERED=""),  # what is written waits for the end
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, how: str, stdout: int = subprocess.PIPE) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    process = start(program, how, stdout)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out or "", err


def test_a_thread_of_c_does_not_abort_it() -> None:
    code, out, err = run(C_THREAD, "script")
    assert (code, out, err) == (0, "done\n", "")


def test_nothing_that_python_does_at_its_end_is_left_out() -> None:
    """Threads of pools end, others are waited for, temporary folders go, output is written."""
    found = {}
    for how in ("python", "script"):
        code, out, err = run(LEFTOVERS, how)
        *lines, folder, last = out.replace("thread\n", "").splitlines()
        assert not Path(folder).exists()
        found[how] = code, lines, last, "thread\n" in out, err
    assert found["script"] == found["python"]
    assert found["python"] == (0, ["POOL"], "no end of lineat exit 1", True, "")


@pytest.mark.parametrize("kind", ["a pipe that is closed", "a full disk", "none"])
def test_output_that_nobody_takes(kind: str) -> None:
    found = {}
    for how in ("python", "script"):
        if kind == "a full disk":
            stdout = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, stdout = os.pipe()
            os.close(reader)
        program = "sys.stdout = None\n" * (kind == "none") + OUTPUT
        code, _, err = run(program, how, stdout)
        os.close(stdout)
        assert "Traceback" not in err
        found[how] = code
    assert found == dict.fromkeys(found, 0 if kind == "none" else 120)


MUCH = """
def main():
    for i in range(10000):
        print(i)
end(main)
"""
HELP = """
import argparse
def main():
    argparse.ArgumentParser().parse_args(["--help"])
end(main)
"""
OTHER = """
def main():
    reader, writer = os.pipe()
    os.close(reader)
    os.write(writer, b"to a process that has ended")
end(main)
"""
INSPECT = """
import runpy
sys.argv[1:] = ["--help"]
runpy.run_module("dschat.regularization.inspect_metric", run_name="__main__")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "program", [OUTPUT, MUCH, HELP, INSPECT], ids=["little", "much", "help", "inspect_metric"]
)
def test_a_reader_that_has_seen_enough_is_no_error(program: str, unbuffered: str) -> None:
    """As in `script.py | head`: no traceback, and no "Exception ignored" of Python's end."""
    reader, stdout = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, "script"],
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(stdout)
    # argparse itself ignores that its help cannot be written.
    code = 0 if unbuffered and program in (HELP, INSPECT) else 120
    assert (done.returncode, done.stderr) == (code, "")


def test_another_pipe_that_breaks_is_an_error() -> None:
    code, _, err = run(OTHER, "script")
    assert code == 1
    assert err.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


SCRIPT = """
import atexit, os, sys, types
from dschat.runtime.script import run_script
os_exit = os._exit
def watched(code):
    print("left", flush=True)
    os_exit(code)
os._exit = watched
sys.modules["torch"] = types.ModuleType("torch")
run_script(lambda: print("done"))
"""
CALL = 'run_script(lambda: print("done"))'
# As the published scripts and the console commands do.
COMMAND = """
from dschat.commands import sft
sft.COMMAND_LINE = types.SimpleNamespace(parse=lambda **_: None)
sys.modules["dschat.supervised.sft"] = types.SimpleNamespace(run_sft=lambda _: print("done"))
sft.main()
"""


@pytest.mark.parametrize(
    ("command", "leaves"),
    [
        (["script.py"], True),
        (["-m", "script"], True),
        (["command.py"], True),
        (["-m", "cProfile", "-o", "profile", "script.py"], False),
        (["-c", "import runpy; runpy.run_path('script.py'); open('profile', 'w').close()"], False),
    ],
    ids=["path", "module", "command", "profiler", "runpy"],
)
def test_it_leaves_only_where_nobody_waits_for_it(
    command: list[str], leaves: bool, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "command.py").write_text(SCRIPT.replace(CALL, COMMAND))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("done\n")
    assert ("left" in done.stdout) == leaves, done.stderr
    assert (tmp_path / "profile").exists() != leaves


def test_sigterm_while_it_waits_ends_it() -> None:
    process = start(SLOW, "script")
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    process.communicate()
