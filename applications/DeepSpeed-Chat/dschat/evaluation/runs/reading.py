"""A training run as read from its folder: metrics by step, and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dschat.errors import UserError
from dschat.runtime.files import read_jsonl


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: a short one, different for each run of a picture.
        rows: metrics, steps ascending; a metric that was not finite is None.
        settings: of config.yaml, None without that file; what it records under `run` is `facts`.
        notes: what was odd about the files.
    """

    name: str
    folder: Path
    rows: list[dict[str, Any]]
    settings: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def has(self, metric: str) -> bool:
        """Whether the metric was finite at any step."""
        return any(row.get(metric) is not None for row in self.rows)


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the runs in the order given.

    Raises:
        UserError: a folder without metrics, one that is given twice, or a file that is damaged.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for path, folder in zip(paths, folders, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{folder} is given twice. Give each run once.")
    return [_read(path, name) for path, name in zip(paths, _short_names(paths), strict=True)]


def _read(folder: Path, name: str) -> Run:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} has no metrics.jsonl; give the --output_dir of a run.")
    lines = read_jsonl(path, drop_torn_end=True)
    notes = []
    if not path.read_bytes().endswith(b"\n"):
        notes.append(f"{name}: metrics.jsonl ends amid a line, as of a run that was killed")
    for number, line in enumerate(lines, start=1):
        step = line.get("step")
        if isinstance(step, bool) or not isinstance(step, int):
            raise UserError(
                f"{path}, row {number}: expected a whole number as 'step', found {step!r:.40}."
            )
    rows, superseded = _in_order(lines)
    if superseded:
        notes.append(f"{name}: {superseded} steps were done again after a resume; the last counts")
    if not rows:
        raise UserError(f"{path} holds no metrics: the run has not got as far as its first step.")
    settings, facts = _read_settings(folder / "config.yaml")
    if settings is None:
        notes.append(f"{name}: no config.yaml, so it stands for itself, without a coefficient")
    return Run(name, folder, rows, settings, facts, notes)


def _in_order(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """A row per step, and how many were superseded.

    Lines of one step, such as an evaluation's, are joined. A step below the one before it is where
    a run was resumed from a checkpoint: what it had logged from that step on no longer counts.
    """
    rows: list[dict[str, Any]] = []
    superseded = 0
    for line in lines:
        while rows and line["step"] < rows[-1]["step"]:
            rows.pop()
            superseded += 1
        if rows and rows[-1]["step"] == line["step"]:
            # The first line after a resume can be of the very step that the run had reached.
            rows[-1] = {**rows[-1], **line}
        else:
            rows.append(dict(line))
    return rows, superseded


def _read_settings(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    if not path.is_file():
        return None, {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Without the file the run can be drawn too, but not "
            "grouped with others."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds a {type(settings).__name__}; expected names and values.")
    facts = settings.pop("run", None)
    return settings, facts if isinstance(facts, dict) else {}


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    names = []
    for path in paths:
        others = [p for p in paths if p != path]
        length = 1
        while any(p.parts[-length:] == path.parts[-length:] for p in others):
            length += 1
        names.append("/".join(path.parts[-length:]))
    return names
