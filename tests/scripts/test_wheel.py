"""The wheel: what it holds, and that its commands lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from launch import ROOT

COMMANDS = {f"dschat-{n}" for n in ("sft", "reward", "ppo", "grpo", "dpo", "respond", "compare")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, since setuptools leaves folders where it builds."""
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


@pytest.fixture(scope="module")
def environment(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with this wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    options = ["--quiet", "--no-deps", "--no-index", str(wheel.filename)]
    subprocess.run([*pip, *options], check=True)
    return folder


def run(environment: Path, folder: Path, *command: str) -> str:
    """What a command of the environment prints, run in an empty folder without the checkout."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    name, *arguments = command
    ran = subprocess.run(
        [str(environment / "bin" / name), *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


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


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_needs_no_other_package(environment: Path, tmp_path: Path, command: str) -> None:
    assert f"usage: {command} " in run(environment, tmp_path, command, "--help")


@pytest.mark.slow
def test_an_installed_command_trains(
    environment: Path, tmp_path: Path, tiny_model_dir: Path, preference_dir: Path
) -> None:
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    try:
        where = run(environment, tmp_path, "python", "-c", "import dschat; print(dschat.__file__)")
        assert where.startswith(str(packages))
        flags = {"--model_name_or_path": tiny_model_dir, "--data_path": preference_dir}
        flags |= {"--output_dir": "out", "--max_seq_len": 64, "--data_split": "1,0,0"}
        run(environment, tmp_path, "dschat-sft", *(str(x) for pair in flags.items() for x in pair))
    finally:
        (packages / "dependencies.pth").unlink()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_versions_agree(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"dschat-{project['version']}-" in Path(str(wheel.filename)).name
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert changes.index(f"## {project['version']}") == changes.index("## ")
