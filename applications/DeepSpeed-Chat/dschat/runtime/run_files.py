"""What every run writes beside its model: config.yaml, and metrics.jsonl with its trackers."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dschat.errors import UserError
from dschat.runtime.distributed import is_main, world_size
from dschat.runtime.files import atomic_write_text, explain_write_errors, read_jsonl
from dschat.runtime.trackers import Trackers
from dschat.settings.flags import Settings

LIBRARIES = ("torch", "transformers", "trl", "deepspeed", "peft", "accelerate", "datasets")
SECRET_NAME = re.compile(r"(^|_)(sk|key|secret|password|passwd|credential|hub_token|auth_token)s?$")


def library_versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide results."""
    versions = {"python": platform.python_version()}
    for name in ("dschat", *LIBRARIES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def plain_settings(config: Any) -> dict[str, Any]:
    """Published flag -> value of settings, as JSON keeps them and without secrets.

    Args:
        config: settings, or another dataclass: field -> value.
    """
    is_settings = isinstance(config, Settings)
    values = config.as_flags() if is_settings else dataclasses.asdict(config)
    kept = {name: value for name, value in values.items() if not SECRET_NAME.search(name)}
    return json.loads(json.dumps(kept, default=str))


def git_commit() -> str | None:
    """The commit this package runs from, with "-dirty" where tracked files differ from it.

    None where the package does not lie in its own repository (an installed wheel) or git is absent.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here.parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        commit = git("rev-parse", "HEAD")
        return commit + "-dirty" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


def write_config(config: Any, output_dir: str | Path, **run: Any) -> None:
    """Write output_dir/config.yaml: all resolved settings, and what they ran on under `run`.

    The file can be given back to the script. Settings that hold secrets are not in it.
    Only rank 0 writes; the other ranks return at once.

    Args:
        config: the script's dataclass.
        output_dir: made if need be.
        run: further facts about the run (plain values).

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    if not is_main():
        return
    import yaml

    settings = plain_settings(config)
    settings["run"] = {
        **run,
        "given": config.given_flags() if isinstance(config, Settings) else [],
        "world_size": world_size(),
        "git_commit": git_commit(),
        "versions": library_versions(),
    }
    atomic_write_text(Path(output_dir) / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


def data_folder(config: Any) -> Path:
    """Where prepared data and tables are kept for the next run: `--data_output_path`, or a folder
    in the output folder, so that nothing is written elsewhere unasked.
    """
    return Path(config.data_output_path or Path(config.output_dir) / "data")


class MetricsLog:
    """Writes metrics to output_dir/metrics.jsonl (one object a step) and to trackers.

    Rank 0 writes; on other ranks every method does nothing. Usable as a context manager.
    """

    def __init__(
        self, output_dir: str | Path, trackers: Trackers | None = None, append: bool = False
    ) -> None:
        """Say where; the files are opened when the log is entered or first written to.

        Args:
            output_dir: made if need be.
            trackers: what the rows go to as well.
            append: add to an existing metrics.jsonl (a resumed run) instead of replacing it.
        """
        self.path = Path(output_dir) / "metrics.jsonl"
        self._trackers = trackers
        self._mode = "a" if append else "w"
        self._file: Any = None

    @classmethod
    def of(cls, config: Any, output_dir: str | Path, resuming: bool) -> MetricsLog:
        """The log of a run whose settings have `TrackingFlags`."""
        trackers = Trackers(config, plain_settings(config), Path(output_dir), resuming)
        return cls(output_dir, trackers, append=resuming)

    def open(self) -> None:
        """Open the files; until then those of an earlier run stay as they are.

        Raises:
            UserError: they cannot be written to.
        """
        if not is_main() or self._file is not None:
            return
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A resumed run writes again what came after its checkpoint.
            next_step = self._next_step() if self._mode == "a" else None
            self._file = open(self.path, self._mode, encoding="utf-8")  # noqa: SIM115
        if self._trackers is not None:
            self._trackers.start(next_step)

    def _next_step(self) -> int | None:
        """After the last row of the metrics that are appended to."""
        rows = self.rows()
        return int(rows[-1].get("step", -1)) + 1 if rows else None

    def rows(self) -> list[dict[str, Any]]:
        """The rows so far; none where the file cannot be read."""
        try:
            return read_jsonl(self.path)
        except UserError:
            return []

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one object; `row["step"]` is the trackers' step. NaN and infinities become null."""
        self.open()
        if self._file is None:
            return
        finite = {key: _finite(value) for key, value in row.items()}
        with explain_write_errors(self.path):
            self._file.write(json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        if self._trackers is not None:
            self._trackers.log(row)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self._trackers is not None:
                self._trackers.close()

    def __enter__(self) -> MetricsLog:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
