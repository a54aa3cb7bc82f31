"""SIGTERM as a request; where a rank has died it ends the others, wherever they wait."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from launch import environment

# Python's own handlers never run while a thread waits for a mutex of C's, as gloo and NCCL wait.
PROGRAM = """
import ctypes, os, signal, socket, subprocess, sys, threading, time
from dschat.runtime import distributed
from dschat.runtime.interruption import StopRequest
other = subprocess.Popen(["sleep", "600"])
host = socket.gethostname()
distributed.gather_objects = lambda own: [own, (host, other.pid)]
if sys.argv[1] == "dead":
    other.kill(), other.wait()
with StopRequest().listening() as stop:
    if sys.argv[1] == "dead":
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
        libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)  # long enough for the watching thread to look
    print("received", stop.received)
other.kill()
"""


@pytest.mark.parametrize(
    ("rank", "code", "told"),
    [("alive", 0, "received True\n"), ("dead", 128 + signal.SIGTERM, "")],
)
def test_sigterm_is_a_request_unless_a_rank_has_died(rank: str, code: int, told: str) -> None:
    command = [sys.executable, "-c", PROGRAM, rank]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (code, told), done.stderr
