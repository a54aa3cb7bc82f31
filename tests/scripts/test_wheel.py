"""The wheel: what it holds, and that its commands lead somewhere."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from launch import ROOT

COMMANDS = {f"dschat-{n}" for n in ("sft", "reward", "ppo", "grpo", "dpo", "respond", "compare")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, as setuptools leaves folders where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for path in [ROOT / n for n in ("pyproject.toml", "setup.py", "README.md", "LICENSE")]:
        target = source / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    package = ROOT / "applications/DeepSpeed-Chat/dschat"
    for path in package.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = ROOT / "applications/DeepSpeed-Chat"
    files = {p for p in (package / "dschat").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    expected = {str(path.relative_to(package)) for path in files}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_its_commands_are_functions_of_the_package(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    lines = wheel.read(entry_points).decode().splitlines()
    found = dict(line.split(" = ") for line in lines if " = " in line)
    assert set(found) == COMMANDS
    for target in found.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_versions_agree(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"dschat-{project['version']}-" in Path(str(wheel.filename)).name
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert changes.index(f"## {project['version']}") == changes.index("## ")
