"""Start scripts by a fork of a process that has imported the libraries already.

Importing torch, transformers, TRL and DeepSpeed takes 7 seconds, more than most tests need for
the run itself, and the DeepSpeed launcher does it twice more. `command()` gives a command line that
takes the place of `python script.py ...` or of the launcher: a small client passes its arguments,
environment, folder and open files to the server, waits, forwards signals, and ends as the script
does. A run on several ranks is one fork a rank, with the variables that the launcher sets.

    python fork_server.py serve SOCKET           the server; ends when its standard input is closed
    python fork_server.py run SOCKET RANKS PORT python-arguments      the client
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from typing import Any

# What libraries read while they are imported: with other values a script needs its own start.
READ_AT_IMPORT = (
    *("CUDA_", "DS_", "OMP_", "HF_", "TORCH", "MALLOC_", "LD_", "PYTHON", "TRITON_", "HOME"),
    *("XDG_", "ACCELERATE_", "KMP_", "MKL_", "NCCL_", "TRANSFORMERS_", "TRL_"),
)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def read_at_import(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that the server's imports depend on; PYTHONPATH is not in it."""
    found = {k: v for k, v in environment.items() if k.startswith(READ_AT_IMPORT)}
    return {k: v for k, v in found.items() if k != "PYTHONPATH"}


def client(path: str, ranks: str, port: str, arguments: list[str]) -> None:
    """Have `arguments` run by the server at `path`, and end as they end."""
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "ranks": int(ranks),
        "port": port,
    }
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [struct.pack("!I", len(data))], [0, 1, 2])
        server.sendall(data)
        answers = server.makefile("r")
        processes = json.loads(answers.readline())

        def forward(number: int, frame: Any) -> None:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

        for number in SIGNALS:
            signal.signal(number, forward)
        code = json.loads(answers.readline())
    if code < 0:  # killed by a signal
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


class Run:
    """The ranks of one request."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.running: set[int] = set()
        self.code = 0

    def signal(self, number: int) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, number)

    def ended(self, process: int, status: int) -> bool:
        """Whether it was the last rank. As with the launcher, a failed one ends the others."""
        self.running.discard(process)
        code = os.waitstatus_to_exitcode(status)
        if code and not self.code:
            self.code = code
            self.signal(signal.SIGTERM)
        return not self.running


def serve(path: str) -> dict[str, Any] | None:
    """Fork for each request until standard input is closed.

    Returns:
        In a forked process what it shall run; None in the server when it ends.
    """
    import selectors

    selector = selectors.DefaultSelector()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(16)
    selector.register(listening, selectors.EVENT_READ, "connect")
    selector.register(0, selectors.EVENT_READ, "end")
    runs: dict[int, Run] = {}
    while True:
        # Runs that have ended, or whose client has, come before new ones.
        events = sorted(selector.select(), key=lambda e: e[0].data in ("connect", "end"))
        for key, _ in events:
            if key.data == "end":
                for run in runs.values():
                    run.signal(signal.SIGKILL)
                return None
            if key.data == "connect":
                connection, _ = listening.accept()
                request, files = _receive(connection)
                run = Run(connection)
                for rank in range(request["ranks"]):
                    process = os.fork()
                    if not process:
                        # Closed here and now: the garbage collector would close them later, when
                        # the script's own files have their numbers.
                        for each in list(selector.get_map().values()):
                            if isinstance(each.fileobj, socket.socket):
                                each.fileobj.close()
                        selector.close()
                        connection.close()
                        return {**request, "rank": rank, "files": files}
                    run.running.add(process)
                    runs[process] = run
                    selector.register(os.pidfd_open(process), selectors.EVENT_READ, process)
                for file in files:
                    os.close(file)
                selector.register(connection, selectors.EVENT_READ, run)
                _answer(run, sorted(run.running))
            elif isinstance(key.data, Run):  # the client has ended, or was killed
                selector.unregister(key.fileobj)
                key.data.signal(signal.SIGKILL)
            else:
                run = runs.pop(key.data)
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(key.data, 0)
                if run.ended(key.data, status):
                    _answer(run, run.code)
                    with contextlib.suppress(KeyError):
                        selector.unregister(run.connection)
                    run.connection.close()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    header, files, _, _ = socket.recv_fds(connection, 4, 3)
    (size,) = struct.unpack("!I", header)
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return json.loads(data), files


def _answer(run: Run, value: Any) -> None:
    with contextlib.suppress(OSError):
        run.connection.sendall(json.dumps(value).encode() + b"\n")


def prepare(request: dict[str, Any]) -> list[str]:
    """Make this forked process look like a fresh one; returns the arguments of `python`."""
    import random
    import tempfile

    os.setsid()
    for target, file in enumerate(request["files"]):
        os.dup2(file, target)
    os.closerange(3, 256)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments: list[str] = request["arguments"]
    if request["ranks"] > 1:
        rank, ranks = str(request["rank"]), str(request["ranks"])
        os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, LOCAL_SIZE=ranks)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=request["port"])
        os.environ.update(CROSS_RANK="0", CROSS_SIZE="1")
        arguments = [arguments[0], f"--local_rank={rank}", *arguments[1:]]
    tempfile.tempdir = None
    random.seed()
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = ["", *(path for path in added if path and path not in sys.path[1:])]
    return arguments


def imports() -> None:
    """What training scripts import."""
    import datasets  # noqa: F401
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401
    from trl import DPOTrainer, RewardTrainer, SFTTrainer  # noqa: F401


def run(arguments: list[str]) -> int:
    """What `python` does with these arguments; returns the exit code."""
    import runpy
    import traceback

    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    import atexit
    import gc

    if sys.argv[1] == "run":
        client(*sys.argv[2:5], sys.argv[5:])
    imports()
    gc.freeze()
    print("ready", flush=True)
    code = 0
    if request := serve(sys.argv[2]):
        code = run(prepare(request))
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    # The interpreter would visit every imported object once more, which takes seconds.
    os._exit(code)
