"""Config files nested very deeply are an error in words, whatever their depth and form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dschat.errors import MAX_DEPTH, UserError, too_deep
from dschat.runtime.deepspeed_config import read_overrides
from dschat.settings.command_line import _read_config_file

DEPTHS = (MAX_DEPTH + 1, 400, 990, 3000, 100_000)


def lists(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


def objects(depth: int) -> str:
    return '{"a": ' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("make", [lists, objects])
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_deep_config_file_is_refused(tmp_path: Path, suffix: str, make: Any, depth: int) -> None:
    if suffix == "yaml" and depth > 3000:
        depth = 3000  # more takes YAML's scanner minutes, and Python's limit is reached before
    path = tmp_path / f"run.{suffix}"
    path.write_text(f'{{"learning_rate": {make(depth)}}}', encoding="utf-8")
    with pytest.raises(UserError, match=f"more than {MAX_DEPTH} deep"):
        _read_config_file(str(path))


@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_deepspeed_config_is_refused(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "ds.json"
    path.write_text(objects(depth), encoding="utf-8")
    with pytest.raises(UserError, match="--deepspeed_config .*(deep|recursion)"):
        read_overrides(str(path))


def test_ordinary_depth_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(objects(MAX_DEPTH), encoding="utf-8")
    assert read_overrides(str(path))["a"]


def test_too_deep_counts_levels_and_ends_on_circles_and_aliases() -> None:
    assert not too_deep(1, limit=0)
    assert too_deep([], limit=0)
    assert not too_deep([[1], {"a": (2,)}], limit=3)
    assert too_deep([[1], {"a": (2,)}], limit=2)
    circle: list[Any] = []
    circle.append(circle)
    assert too_deep(circle)
    shared: Any = []
    for _ in range(50):
        shared = [shared, shared]  # 2^50 paths
    assert not too_deep(shared)
