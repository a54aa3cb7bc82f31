"""The house: a folder of the package imports only those listed before it, at any depth."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dschat

PACKAGE = Path(dschat.__file__).parent
FLOORS = [
    "errors",
    "settings",
    "runtime",
    "regularization",
    "algorithms",
    "data",
    "models",
    "rewards",
    "rollout",
    "scoring",
    "checkpoint",
    "online",
    "supervised",
    "evaluation",
    "integrations",
    "example",
    "commands",
]
PURE = {"regularization", "algorithms"}  # of the package they import nothing else but errors
LARGEST_FOLDER = 16


def imported(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            # `from dschat import x` names a floor.
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module else []
        yield from (name for name in names if name.split(".")[0] == "dschat")


def floor_of(module: str) -> str:
    return module.split(".")[1]


def test_every_file_stands_on_a_floor() -> None:
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert found - {"__init__", "__pycache__"} <= set(FLOORS)


def test_a_floor_imports_only_those_below_it() -> None:
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if own == "__init__":
            continue
        below = {"errors", own} if own in PURE else set(FLOORS[: FLOORS.index(own) + 1])
        upward += [
            f"{path.relative_to(PACKAGE)} imports {module}"
            for module in imported(path)
            if floor_of(module) not in below
        ]
    assert not upward


def graph() -> dict[str, set[str]]:
    """Module -> the modules of this package that it imports at its top."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("dschat", *path.relative_to(PACKAGE).with_suffix("").parts)
        modules[".".join(parts).removesuffix(".__init__")] = path
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        known = {m if m in modules else m.rpartition(".")[0] for m in imported(path)}
        found[name] = (known & modules.keys()) - {name}
    return found


def test_no_import_goes_in_a_circle() -> None:
    remaining = graph()
    while remaining:
        free = {name for name, needs in remaining.items() if not needs & remaining.keys()}
        assert free, f"these import each other: {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in free}


def test_no_folder_is_a_heap() -> None:
    folders = [p for p in (PACKAGE, *PACKAGE.rglob("*")) if p.is_dir()]
    sizes = {str(p.relative_to(PACKAGE)): len(list(p.glob("*.py"))) for p in folders}
    assert {name: n for name, n in sizes.items() if n > LARGEST_FOLDER} == {}
