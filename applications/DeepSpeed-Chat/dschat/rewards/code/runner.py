"""What runs inside the sandbox: the text of this file is given to a bare interpreter.

It takes a program, compiles it, and runs it once for each input that it is sent, in a forked child
each, so that no test sees what another one left in memory. It never gets an expected output, and
says nothing about right or wrong: it hands back what the program wrote. A program can take over
this process, for both are one user's; all it can do then is to send other answers.

Frames on descriptor 0, each behind its length in 4 bytes: first the set-up as JSON, then an input
for each test with 16 bytes of nonce behind it. Frames on descriptor 1: `READY`; 0 or 1 (compiled or
not) and a message; for each test the nonce, `RESULT` and standard output, standard error and the
returned value as JSON. The nonce is read only once the child is dead.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from types import CodeType, ModuleType
from typing import Any

READY = b"\x06ready"
RESULT = struct.Struct("<iIII")  # exit code (negative: signal), lengths of the three texts
LENGTH = struct.Struct("<I")
NONCE_BYTES = 16
RETURNED = 3  # the descriptor in the child to which the returned value goes
ERROR_BYTES = 10_000
LONG_INTEGER = "\0integer"

# What the harness of APPS puts before each program (but numpy, which is not in the sandbox).
PREAMBLE = """
import sys, time, itertools, collections, math, fractions, random, heapq
from itertools import accumulate, product, permutations, combinations
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
from typing import List, Tuple, Dict, Set, Optional
from heapq import *
"""


def read_exactly(descriptor: int, count: int) -> bytes:
    """The next `count` bytes; ends the process where the other side has closed."""
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(descriptor: int) -> bytes:
    return read_exactly(descriptor, LENGTH.unpack(read_exactly(descriptor, LENGTH.size))[0])


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def set_limit(kind: int, value: int, margin: int = 0) -> None:
    """Lower the soft and the hard limit (which is `margin` higher); nobody here can raise it."""
    hard = resource.getrlimit(kind)[1]
    highest = value + margin
    if hard != resource.RLIM_INFINITY:
        highest = min(highest, hard)
    resource.setrlimit(kind, (min(value, highest), highest))


def set_limits(setup: dict[str, Any]) -> None:
    """The limits that hold for this process too, which compiles the program."""
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_AS, setup["memory_bytes"])
    set_limit(resource.RLIMIT_NOFILE, setup["open_files"])
    set_limit(resource.RLIMIT_NPROC, setup["processes"])


def as_integer(value: dict[str, Any]) -> Any:
    return int(value[LONG_INTEGER]) if LONG_INTEGER in value else value


def call(namespace: dict[str, Any], function: str, arguments: bytes) -> bytes:
    """The returned value as JSON, or "!" and its representation if JSON cannot hold it."""
    dumps = json.dumps
    holder = namespace.get("Solution")
    if isinstance(holder, type) and hasattr(holder, function):
        target = getattr(holder(), function)
    elif function in namespace:
        target = namespace[function]
    else:
        raise NameError(f"the program does not define {function}")
    value = target(*json.loads(arguments, object_hook=as_integer))
    try:
        return dumps(value).encode()
    except (TypeError, ValueError, RecursionError):
        return ("!" + repr(value)[:1000]).encode(errors="replace")


def run_in_child(program: CodeType, module: ModuleType, setup: dict[str, Any], data: bytes) -> None:
    """Run the program. What it raises ends the interpreter as in any other program."""
    set_limit(resource.RLIMIT_FSIZE, setup["output_bytes"])
    # The soft limit's signal can be caught, the hard limit's cannot.
    set_limit(resource.RLIMIT_CPU, setup["cpu_seconds"], margin=1)
    for name, stream in (
        ("stdin", open(0, encoding="utf-8", closefd=False)),  # noqa: SIM115
        ("stdout", open(1, "w", encoding="utf-8", closefd=False)),  # noqa: SIM115
        ("stderr", open(2, "w", errors="backslashreplace", closefd=False)),  # noqa: SIM115
    ):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.modules["__main__"] = module
    exec(program, module.__dict__)
    if setup["function"] is not None:
        write_all(RETURNED, call(module.__dict__, setup["function"], data))


def redirect(files: list[int]) -> None:
    """Make these files descriptors 0 to 3, and close every other one."""
    copies = [os.dup(file) for file in files]  # none of 0 to 3, which are all open
    for descriptor, copy in enumerate(copies):
        os.dup2(copy, descriptor)
    os.closerange(len(files), resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def exit_code(pid: int, cpu_seconds: int) -> int:
    """Waits; SIGXCPU wherever a signal ended a process that had used up its CPU time."""
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and usage.ru_utime + usage.ru_stime >= cpu_seconds:
        return -signal.SIGXCPU
    return code


def contents(file: int, limit: int) -> bytes:
    return os.pread(file, min(os.fstat(file).st_size, limit), 0)


def serve() -> None:
    """Answer frames until the other side closes. Returns only in a child, after its program."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    sys.set_int_max_str_digits(0)  # long integers only cost the program's own time
    write_all(answers, READY)
    setup = json.loads(read_frame(requests))
    set_limits(setup)
    module = ModuleType("__main__")
    exec(PREAMBLE, module.__dict__)
    try:
        source = setup["program"]
        program = compile(source, "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        message = repr(error).encode(errors="replace")[:ERROR_BYTES]
        write_all(answers, b"\x01" + LENGTH.pack(len(message)) + message)
        return
    write_all(answers, b"\x00" + LENGTH.pack(0))
    while True:
        data = read_frame(requests)
        names = ("stdin", "stdout", "stderr", "returned")
        files = [os.memfd_create(name) for name in names]
        write_all(files[0], data)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            redirect(files)
            run_in_child(program, module, setup, data)
            return
        code = exit_code(pid, setup["cpu_seconds"])
        texts = [contents(file, setup["output_bytes"]) for file in files[1:]]
        texts[1] = texts[1][-ERROR_BYTES:]
        nonce = read_exactly(requests, NONCE_BYTES)
        write_all(answers, nonce + RESULT.pack(code, *map(len, texts)) + b"".join(texts))
        for file in files:
            os.close(file)


if __name__ == "__main__":
    serve()
