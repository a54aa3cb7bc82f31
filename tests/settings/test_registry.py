"""Parts by name: what is registered, what is refused, and the files of users."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.settings import parts
from dschat.settings.registry import Registry, import_file


@pytest.mark.parametrize("name", parts.__all__)
def test_every_built_in_part_is_where_its_entry_says(name: str) -> None:
    registry: Registry = getattr(parts, name)
    assert len(registry) > 0
    for part in registry.parts():
        assert dataclasses.is_dataclass(part.settings)
        if part.name != "reward_model":  # loaded with the other models
            assert callable(getattr(part.load(), "rows", part.load()))


def test_a_name_is_taken_once_and_an_unknown_one_is_answered_with_the_list() -> None:
    registry = Registry("shape")

    @registry.register("circle")
    def circle() -> str:
        return "round"

    registry.add("square", "math:sqrt")
    assert list(registry) == ["circle", "square"]
    assert registry["circle"].load() is circle
    assert registry["square"].load()(9) == 3
    with pytest.raises(UserError, match=r"already a shape named 'circle'.*circle, square"):
        registry.add("circle", circle)
    with pytest.raises(UserError, match=r"no shape named 'cirle'\. Did you mean 'circle'\?"):
        registry["cirle"]
    with pytest.raises(UserError, match=r"no shape named 'zzz'\. Known: circle, square"):
        registry["zzz"]


def test_settings_that_are_no_dataclass_are_refused() -> None:
    class Settings(parts.CriticSettings):  # inherits, but is none itself
        size: int = 3

    with pytest.raises(UserError, match="Settings, are no dataclass: put @dataclass above"):
        Registry("shape").add("square", "math:sqrt", Settings)


def test_a_users_file_runs_once_and_its_failure_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("with open(__file__ + '.log', 'a') as log:\n    log.write('ran ')\n")
    assert import_file(str(file), "--plugin") is import_file(str(file), "--reward")
    assert Path(f"{file}.log").read_text() == "ran "
    # All ranks have one name for the module, whatever the seed of their hashes.
    found = {_module_name(file, seed) for seed in "12"}
    assert found == {import_file(str(file), "--plugin").__name__}
    before = set(sys.modules)
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for path, message in (
        (broken, "broken.py raised ZeroDivisionError"),
        (tmp_path / "none.py", "there is none at"),
        (tmp_path, "expected a Python file"),
    ):
        with pytest.raises(UserError, match=message):
            import_file(str(path), "--plugin")
    assert set(sys.modules) == before


def _module_name(file: Path, hash_seed: str) -> str:
    program = "import sys; from dschat.settings.registry import import_file\n"
    program += "print(import_file(sys.argv[1], '--plugin').__name__)"
    command = [sys.executable, "-c", program, str(file)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()


def test_the_order_of_names_does_not_depend_on_what_is_imported_first() -> None:
    folder = Path(parts.__file__).parent
    modules = [
        p for name in ("algorithms", "regularizers") for p in (folder / name).glob("[a-z]*.py")
    ]
    orders = set()
    for module in modules:
        code = (
            f"import dschat.settings.{module.parent.name}.{module.stem}\n"
            "import dschat.settings.parts as p\n"
            "print([list(getattr(p, name)) for name in p.__all__])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        orders.add(found.stdout or found.stderr)
    assert len(orders) == 1
    assert "ppo_clip" in orders.pop()
