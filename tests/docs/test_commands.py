"""Every command of README.md and docs/ parses: scripts and tests exist, flags are accepted.

Only settings are made; nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_lines import COMMANDS, SCRIPTS, command_line
from doc_pages import PAGES, ROOT, Command, commands

# test_extending.py runs the commands of the one; the other names programs of earlier versions.
OTHERS = ("extending.md", "CHANGELOG.md")
FOUND = [command for page in PAGES if page.name not in OTHERS for command in commands(page)]
LAUNCHERS = {"-i": 1, "--include": 1, "--num_accelerators": 1, "--master_port": 1}
LAUNCHERS |= {"--hostfile": 1, "--no_python": 0}
UNFINISHED = re.compile(r"\.\.\.|my_|\.yaml$|^\[")
"""Words that stand for something else: of such a command only the flags' names are looked at."""


def without_launcher(words: Sequence[str]) -> list[str]:
    """What `deepspeed` runs, with its arguments."""
    rest = list(words[1:])
    while rest[0].startswith("-"):
        del rest[: 1 + LAUNCHERS[rest[0]]]
    return rest


def script_at(command: Command, name: str) -> list[Path]:
    """The file; of a bare name in the text, every script of that name."""
    if (command.folder / name).is_file():
        return [command.folder / name]
    assert "/" not in name, f"there is no {name} in {command.folder}"
    return [path for path in (ROOT / "applications").rglob(name) if "dschat" not in path.parts]


def check_flags(line: Any, arguments: Sequence[str]) -> None:
    """The settings of a whole command; of an unfinished one, that its flags are known."""
    if not any(UNFINISHED.search(word) for word in arguments):
        line.parse(arguments)
        return
    known = {name for flag in line.flags() for name in (flag.name, *flag.aliases)}
    given = {w[2:].split("=")[0].replace("-", "_") for w in arguments if w.startswith("--")}
    assert given <= known


def check_source(path: Path, arguments: Sequence[str]) -> None:
    """The flags of a program with a parser of its own stand in its source, or in one beside it."""
    source = path.read_text()
    for name in re.findall(r"^(?:from|import) (\w+)", source, re.M):
        beside = path.with_name(f"{name}.py")
        source += beside.read_text() if beside.is_file() else ""
    for word in arguments:
        assert not word.startswith("--") or f'"{word.split("=")[0]}"' in source, word


def check_module(name: str, arguments: Sequence[str]) -> None:
    """`python -m name`."""
    if name == "pytest":
        check_tests(arguments)
        return
    path = ROOT / "applications/DeepSpeed-Chat" / name.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.is_file()
    check_source(path, arguments)


def check_tests(arguments: Sequence[str]) -> None:
    for word in arguments:
        assert "/" not in word or (ROOT / word.split("::")[0]).exists(), word


@pytest.mark.parametrize("command", FOUND, ids=str)
def test_it_parses(command: Command) -> None:
    program, *arguments = command.words
    if program == "deepspeed":
        program, *arguments = without_launcher(command.words)
    if program.startswith("dschat-"):
        assert program in COMMANDS, program
        check_flags(command_line(program), arguments)
    elif program == "pytest":
        check_tests(arguments)
    elif program == "bash":
        assert (command.folder / arguments[0]).is_file()
    elif program == "pip":
        assert arguments[0] == "install"
    elif program == "python" and arguments[0] == "-m":
        check_module(arguments[1], arguments[2:])
    else:
        name, *arguments = arguments if program == "python" else [program, *arguments]
        paths = script_at(command, name)
        assert paths, f"there is no {name}"
        problems = []
        for path in paths:
            line = SCRIPTS.get(path)
            try:
                check_source(path, arguments) if line is None else check_flags(line, arguments)
            except (Exception, SystemExit) as problem:
                problems.append(f"{path}: {problem!r}")
        # Of main.py without a folder it is enough that one step's takes the flags.
        assert len(problems) < len(paths), problems


def test_commands_are_found() -> None:
    assert len(FOUND) > 80
    assert {"bash", "pip", "python", "deepspeed", "pytest"} <= {c.words[0] for c in FOUND}


@pytest.mark.parametrize(
    "words",
    [
        "python training/main.py --seed 1",
        "deepspeed gsm8k_grpo.py --no_such_flag 1 ...",
        "bash scripts/no_such.sh",
        "pytest tests/no_such.py",
        "python -m dschat.no_such",
        "dschat-nothing --seed 1",
    ],
)
def test_what_does_not_exist_is_noticed(words: str) -> None:
    with pytest.raises(AssertionError):
        test_it_parses(Command(PAGES[0], tuple(words.split()), ROOT))
