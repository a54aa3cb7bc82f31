"""From a dataclass to a command line, a YAML/JSON file, or both; and the exit of every script.

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from dschat.errors import UserError

ConfigT = TypeVar("ConfigT")
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")

# How long other ranks wait before they tell of an error: the launcher looks every second, and
# rank 0 may be some seconds behind where they are starting up.
SECONDS_FOR_RANK_0 = 10.0

EXIT_OUTPUT_LOST = 120  # Python's own

# Flags that DeepSpeed-Chat users know and this project does not honour -> what to use instead.
HYBRID_ENGINE = (
    "the hybrid engine is not used here: generation runs on the trained weights themselves. "
    "Remove the flag; under ZeRO 3 add --enable_zero3_generation_gather for fast generation"
)
REPLACED_FLAGS: dict[str, str] = {
    "enable_hybrid_engine": HYBRID_ENGINE,
    "unpin_actor_parameters": HYBRID_ENGINE,
    "release_inference_cache": HYBRID_ENGINE,
    "inference_tp_size": HYBRID_ENGINE,
    "tp_gather_partition_size": HYBRID_ENGINE,
    "preprocessing_num_workers": "texts are tokenised by the tokenizer's own threads, and only as "
    "many as a run needs. Remove the flag",
    "entropy_loss_coef": "online training calls it --entropy_coef",
    "enable_mixed_precision_lora": "mixed-precision ZeRO++ is not supported. Remove the flag and "
    "use --actor_lora_dim with --actor_zero_stage 2 or 3",
}


def flag(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with its help line; `default` may be a list."""
    metadata = {"help": help, **metadata}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_config(
    config_class: type[ConfigT],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    replaced_flags: Mapping[str, str] = REPLACED_FLAGS,
) -> ConfigT:
    """Parse `[config.yaml] [--flag value ...]` into `config_class`; flags override the file.

    Args:
        config_class: a dataclass made of `flag(...)` fields. If it has a `validate()` method, it
            is called on the result. If it has an attribute `given`, that becomes the names of the
            flags on the command line.
        argv: the arguments without the program's name; None takes `sys.argv[1:]`.
        description: shown by `--help`.
        replaced_flags: known flags that are refused, with what to use instead.

    Raises:
        UserError: a refused flag, a file that cannot be read, or an unknown name in it.
        SystemExit: argparse's own errors (exit code 2) and `--help`.
    """
    from transformers import HfArgumentParser

    arguments = list(sys.argv[1:] if argv is None else argv)
    _refuse_replaced(arguments, replaced_flags)
    parser = HfArgumentParser(config_class, description=description, allow_abbrev=False)  # type: ignore[arg-type]
    parser.error = _refuse  # type: ignore[method-assign]
    file_values: dict[str, Any] = {}
    file_at = _config_file_position(arguments)
    if file_at is not None:
        path = arguments.pop(file_at)
        file_values = _read_config_file(path, config_class, replaced_flags)
        _use_as_defaults(parser, file_values)
    config, unknown = parser.parse_args_into_dataclasses(
        args=arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise UserError(_unknown_flags(unknown, list(vars(config))))
    _refuse_infinite(config)
    if hasattr(config_class, "given"):
        config.given = frozenset(map(_flag_name, arguments))
    validate = getattr(config, "validate", None)
    if validate is not None:
        validate()
    return config


def _refuse(message: str) -> NoReturn:
    """In the place of argparse's own: of a hundred flags' usage nobody reads the last line."""
    message = re.sub(r"^argument (--\w+)\S*:", r"\1:", message)
    message = one_line(message).rstrip(".")
    print(f"error: {message}. --help explains all flags.", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _refuse_replaced(arguments: Sequence[str], replaced_flags: Mapping[str, str]) -> None:
    for name in map(_flag_name, arguments):
        if name in replaced_flags:
            raise UserError(f"--{name} cannot be honoured: {replaced_flags[name]}.")


def _flag_name(argument: str) -> str:
    """ "learning_rate" of "--learning-rate=1e-5"; "" of what is no flag."""
    if not argument.startswith("--"):
        return ""
    return argument[2:].split("=", 1)[0].replace("-", "_")


def _unknown_flags(unknown: Sequence[str], known: Sequence[str]) -> str:
    first = unknown[0]
    name = first.lstrip("-").split("=", 1)[0]
    hint = _close_names(name, known, "--")
    what = "flag" if first.startswith("--") else "argument"
    if first.lower().endswith(CONFIG_SUFFIXES):
        hint = "A config file comes before all flags. "
    return f"Unknown {what} {first!r}. {hint}--help lists all flags."


def _refuse_infinite(config: Any) -> None:
    """No flag means anything with nan or inf, and most ranges would let inf through."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, list) else [value]:
            finite = not isinstance(number, float) or math.isfinite(number)
            require(finite, f"--{name} {number}: expected a finite number.")


def _close_names(name: str, known: Sequence[str], prefix: str = "") -> str:
    """A hint that ends in a space, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(prefix + c for c in close)}? " if close else ""


def _config_file_position(arguments: Sequence[str]) -> int | None:
    """The config file is the first argument; the DeepSpeed launcher may put --local_rank before."""
    for i, argument in enumerate(arguments):
        if argument.startswith(("--local_rank", "--local-rank")):
            continue
        is_file = argument.lower().endswith(CONFIG_SUFFIXES)
        return i if is_file and not argument.startswith("-") else None
    return None


def _read_config_file(
    path: str, config_class: type, replaced_flags: Mapping[str, str]
) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.lower().endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"The config file {path!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"The config file {path!r} holds a {type(values).__name__}; "
            "expected names and values, one flag a line (learning_rate: 1e-5)."
        )
    # A run's own config.yaml can be given back: what it records about the run is not a flag.
    values.pop("run", None)
    known = {f.name for f in dataclasses.fields(config_class)}
    for name in values:
        if name in replaced_flags:
            raise UserError(f"{path}: {name} cannot be honoured: {replaced_flags[name]}.")
        if name not in known:
            names = sorted(known)
            hint = _close_names(str(name), names)
            raise UserError(
                f"{path}: unknown name {name!r}. {hint}Known names: {', '.join(names)}."
            )
    return values


def _use_as_defaults(parser: Any, values: Mapping[str, Any]) -> None:
    """The file's values take the place of the defaults, through each flag's own type check."""
    for action in parser._actions:
        if action.dest not in values:
            continue
        value = values[action.dest]
        if value is not None:
            convert = action.type or (lambda v: v)
            items = value if isinstance(value, list) else [value]
            try:
                items = [v if isinstance(v, bool) else convert(str(v)) for v in items]
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                raise UserError(f"{action.dest} = {value!r} in the config file: {error}") from error
            if action.choices is not None and any(v not in action.choices for v in items):
                choices = ", ".join(map(str, action.choices))
                raise UserError(f"{action.dest} = {value!r} in the config file; expected {choices}")
            value = items if action.nargs in ("+", "*") else items[0]
        action.default = value
        action.required = False


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def one_line(message: str) -> str:
    """The message on one line: libraries' own, which it may quote, can have several."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; a `UserError` becomes one message and exit code 1."""
    try:
        main()
        if "torch" in sys.modules and is_outermost(sys._getframe(1)):
            leave()
    except UserError as error:
        given = os.environ.get("RANK", "0")
        rank = int(given) if given.isdecimal() else 0
        if rank > 0:
            # Most errors are the same on all ranks, and the launcher ends the others as soon as
            # rank 0 has told of it: only an error that rank 0 does not have is told here.
            time.sleep(SECONDS_FOR_RANK_0)
        prefix = "error" if rank == 0 else f"error (rank {rank})"
        print(f"\n{prefix}: {one_line(str(error))}", file=sys.stderr, flush=True)
        # Other ranks may be waiting in a collective: the launcher ends them when this one exits,
        # and a normal interpreter shutdown could wait for them instead.
        sys.stdout.flush()
        os._exit(1)


def is_outermost(frame: FrameType | None) -> bool:
    """Whether only Python itself runs the module of this frame, by its path or with -m.

    Not so under a profiler, a debugger or `runpy`: who called has work of its own to do after it.
    """
    script = frame.f_globals if frame is not None else None
    while frame is not None and frame.f_globals is script:
        frame = frame.f_back
    while frame is not None and frame.f_globals["__name__"] == "runpy":  # -m
        frame = frame.f_back
    return frame is None


def leave() -> NoReturn:
    """End a process that has done its work, without taking the interpreter down around C++ threads.

    Threads of torch's process groups may still hold Python objects then. One that asks for the
    interpreter's lock while it is being finalised is ended by it, which C++ answers with
    "terminate called without an active exception": a finished run that ends with code -6.
    All else is as at the interpreter's own end: pools are shut down and threads waited for, what
    is registered with `atexit` runs, and output that cannot be written makes the exit code 120.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:  # a full disk, or a pipe that nobody reads any more
            code = EXIT_OUTPUT_LOST
    os._exit(code)
