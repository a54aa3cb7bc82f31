"""What runs inside the sandbox: the text of this file is given to a bare interpreter.

It takes a program, compiles it, and runs it once for each input that it is sent, in a forked child
each, so that no test sees what another one left in memory. It never gets an expected output, and
says nothing about right or wrong: it hands back what the program wrote. A program can take over
this process, for both are one user's; all it can do then is to send other answers.

Frames on descriptor 0, each behind its length in 4 bytes: first the set-up (by marshal, which is
trusted in this direction only), then an input for each test with 16 bytes of nonce behind it.
On descriptor 1: `READY`; 0 or 1 (compiled or not) and a message as a frame; for each test the
nonce, `RESULT` and standard output, standard error and the returned value as JSON. The nonce is
read only once the child is dead.

Most of the time that a short program takes is the imports here and the pages that a child touches:
so there are few imports, and a child does not take the interpreter apart at its end.
"""

from __future__ import annotations

import atexit
import gc
import marshal
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

READY = b"\x06ready"
RESULT = struct.Struct("<iIII")  # exit code (negative: signal), lengths of the three texts
LENGTH = struct.Struct("<I")
NONCE_BYTES = 16
RETURNED = 3  # the descriptor in the child to which the returned value goes
ERROR_BYTES = 10_000
SHUT_DOWN_FAILED = 120  # Python's exit code where it cannot flush

# What the harness of APPS imports before each program (but numpy, which is not in the sandbox),
# and three more names of `typing`.
IMPORTED_MODULES = "sys time itertools collections math fractions random heapq"
IMPORTED_NAMES = {
    "itertools": "accumulate product permutations combinations",
    "collections": "Counter OrderedDict deque defaultdict ChainMap",
    "functools": "lru_cache",
    "math": "sqrt sin cos tan ceil fabs floor gcd exp log log2",
    "typing": "List Tuple Dict Set Optional",
    "heapq": "heappush heappop heapify heapreplace merge nlargest nsmallest heappushpop",
}


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
    """One message: its length, then its bytes."""
    return read_exactly(descriptor, LENGTH.unpack(read_exactly(descriptor, LENGTH.size))[0])


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however little a pipe takes at a time."""
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


def add_site_builtins() -> None:
    """Define what `site`, which is left out here, adds to the builtins: exit() and its like."""
    import _sitebuiltins
    import builtins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    builtins.help = _sitebuiltins._Helper()
    license_text = "See https://www.python.org/psf/license/"
    texts = {"copyright": sys.copyright, "credits": sys.copyright, "license": license_text}
    for name, text in texts.items():
        setattr(builtins, name, _sitebuiltins._Printer(name, text))


def names_in(program: CodeType) -> set[str]:
    """All names that a program uses, but inside texts."""
    names = set(program.co_names)
    for constant in program.co_consts:
        if isinstance(constant, type(program)):
            names |= names_in(constant)
    return names


def import_for(program: CodeType, namespace: dict[str, Any]) -> None:
    """Do those of the harness's imports whose names the program uses."""
    used = names_in(program)
    takes_all = not used.isdisjoint(("exec", "eval", "globals", "vars", "locals", "__dict__"))
    for module in IMPORTED_MODULES.split():
        if takes_all or module in used:
            namespace[module] = __import__(module)
    for module, names in IMPORTED_NAMES.items():
        for name in names.split():
            if takes_all or name in used:
                namespace[name] = getattr(__import__(module), name)


def as_integer(value: dict[str, Any]) -> Any:
    """An integer that was sent as text, because JSON readers limit its digits; else the value."""
    return int(value["\0integer"]) if "\0integer" in value else value


def call(namespace: dict[str, Any], function: str, arguments: bytes) -> bytes:
    """The returned value as JSON, or "!" and its representation if JSON cannot hold it."""
    import json

    dumps, loads = json.dumps, json.loads
    holder = namespace.get("Solution")
    if isinstance(holder, type) and hasattr(holder, function):
        target = getattr(holder(), function)
    elif function in namespace:
        target = namespace[function]
    else:
        raise NameError(f"the program does not define {function}")
    value = target(*loads(arguments, object_hook=as_integer))
    try:
        return dumps(value).encode()
    except (TypeError, ValueError, RecursionError):
        return ("!" + repr(value)[:1000]).encode(errors="replace")


def run_in_child(program: CodeType, module: ModuleType, setup: dict[str, Any], data: bytes) -> None:
    """Run the program; raises what it raises."""
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


def code_of(error: BaseException) -> int:
    """What Python does with an exception that nobody caught."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def shut_down(namespace: dict[str, Any], output: Any) -> None:
    """What Python does at its end, as far as a program notices."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    for name in list(namespace):
        if name != "__builtins__":
            namespace[name] = None  # destructors run, files are flushed
    for stream in (sys.stdout, output, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def be_child(program: CodeType, module: ModuleType, setup: dict[str, Any], data: bytes) -> None:
    """Run the program and leave, whatever it does to this interpreter."""
    leave = os._exit
    code = 1  # also if the handling of the program's exception fails
    try:
        try:
            run_in_child(program, module, setup, data)
            code = 0
        except BaseException as error:
            code = code_of(error)
        succeeded = code == 0
        code = code or SHUT_DOWN_FAILED
        shut_down(module.__dict__, sys.__stdout__)
        if succeeded:
            code = 0
    finally:
        leave(code)


def redirect(files: list[int]) -> None:
    """Make these files descriptors 0 to 3, and close every other one."""
    copies = [os.dup(file) for file in files]  # none of 0 to 3, which are all open
    for descriptor, copy in enumerate(copies):
        os.dup2(copy, descriptor)
    os.closerange(len(files), resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def exit_code(pid: int, setup: dict[str, Any]) -> int:
    """Waits; SIGXCPU wherever a signal ended a process that had used up its CPU time."""
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and usage.ru_utime + usage.ru_stime >= setup["cpu_seconds"]:
        return -int(setup["out_of_time"])
    return code


def contents(file: int, limit: int) -> bytes:
    """The first `limit` bytes of an open file, from its start."""
    return os.pread(file, min(os.fstat(file).st_size, limit), 0)


def answer_tests(requests: int, answers: int, program: CodeType, setup: dict[str, Any]) -> None:
    """Run the program for each input until the other side closes."""
    add_site_builtins()
    module = type(sys)("__main__")
    import_for(program, module.__dict__)
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    while True:
        data = read_frame(requests)
        files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr", "returned")]
        write_all(files[0], data)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            redirect(files)
            be_child(program, module, setup, data)
        code = exit_code(pid, setup)
        texts = [contents(file, setup["output_bytes"]) for file in files[1:]]
        texts[1] = texts[1][-ERROR_BYTES:]
        nonce = read_exactly(requests, NONCE_BYTES)
        write_all(answers, nonce + RESULT.pack(code, *map(len, texts)) + b"".join(texts))
        for file in files:
            os.close(file)


def serve() -> None:
    """Compile the program, say whether that worked, and run it."""
    os.closerange(3, 256)  # whatever was handed on by mistake
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    sys.set_int_max_str_digits(0)  # long integers only cost the program's own time
    write_all(answers, READY)
    setup = marshal.loads(read_frame(requests))
    set_limits(setup)
    try:
        program = compile(setup["program"], "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        message = repr(error).encode(errors="replace")[:ERROR_BYTES]
        write_all(answers, b"\x01" + LENGTH.pack(len(message)) + message)
        return
    write_all(answers, b"\x00" + LENGTH.pack(0))
    answer_tests(requests, answers, program, setup)


if __name__ == "__main__":
    serve()
