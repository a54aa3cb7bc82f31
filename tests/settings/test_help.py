"""`--help` of every script and console command: at once, without torch, in groups, as typed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lines import COMMANDS, SCRIPTS
from dschat.settings.flags import RARELY_NEEDED
from launch import ROOT, environment

# Seconds: it takes 0.2 on a quiet core, and other tests may take the cores meanwhile.
AT_ONCE = 5.0
WATCH = """
import sys
command, sys.argv = sys.argv[1], sys.argv[1:]
try:
    if command.endswith(".py"):
        import runpy
        runpy.run_path(command, run_name="__main__")
    else:
        import importlib
        importlib.import_module(command).main()
finally:
    assert not {"torch", "transformers", "openai", "numpy"} & set(sys.modules)
"""
FILES = {
    **{str(path): path for path in SCRIPTS},
    **{module.__name__: Path(str(module.__file__)) for module in COMMANDS.values()},
}


def help_of(command: str) -> str:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WATCH, command, "--help"],
        env=environment(COLUMNS="100"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < AT_ONCE
    return done.stdout


@pytest.mark.parametrize("command", FILES)
def test_help(command: str) -> None:
    told = help_of(command)
    written = FILES[command].read_text().split('"""')[1]
    assert written.strip() in told  # with the example command as it can be copied
    titles = re.findall(r"^(\S.*):$", told, re.MULTILINE)
    assert "options" in titles
    flags = re.findall(r"^  --(\w\S*)", told, re.MULTILINE)
    assert len(set(flags)) == len(flags) >= 3
    assert len(flags) < 12 or ("Flags" not in titles and len(titles) >= 4), titles
    if RARELY_NEEDED in titles:
        assert titles[-1] == RARELY_NEEDED


def test_every_script_is_known() -> None:
    folders = ["applications/DeepSpeed-Chat/training", "applications/Multi-Reference"]
    folders += ["inference", "evaluation"]
    scripts = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert scripts == set(SCRIPTS)


def test_console_commands_are_declared() -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(declared) == set(COMMANDS)
    for name, target in declared.items():
        module, function = target.split(":")
        assert importlib.import_module(module) is COMMANDS[name]
        assert callable(getattr(COMMANDS[name], function))
