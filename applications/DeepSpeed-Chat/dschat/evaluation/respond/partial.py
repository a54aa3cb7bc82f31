"""Results that are not complete yet: what is done is not done again, whoever did it.

Beside the output file NAME.jsonl there is, until that is complete, a hidden folder .NAME.partial
with the run's settings and one file of JSON lines a stage and rank. Any number of ranks can
resume it. A line that a kill cut short is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from dschat.data import clock
from dschat.errors import UserError
from dschat.runtime.distributed import broadcast_object, is_main, log_main, on_all_ranks, rank
from dschat.runtime.files import (
    atomic_write_json,
    atomic_write_text,
    explain_write_errors,
    read_jsonl,
)
from dschat.runtime.run_files import library_versions
from dschat.settings.command_line import require

Rows: TypeAlias = dict[int, dict[str, Any]]
SETTINGS_FILE = "settings.json"

# They end a line for some readers (not for JSON): in a text they are written as escapes.
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def json_line(row: Mapping[str, Any]) -> str:
    """A row as one line of UTF-8, whatever a model or a program has put into its texts.

    Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
    """
    text = json.dumps(row, ensure_ascii=False)
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.translate(LINE_ENDS) + "\n"


def freeze_clock(output: Path, overwrite: bool) -> None:
    """Chat templates get the time at which the run of `output` started, if it is resumed.

    Where a template writes the time, the run's settings have it.
    """
    earlier: Any = None
    if not overwrite:
        with contextlib.suppress(UserError):
            partial = output.parent / f".{output.stem}.partial" / SETTINGS_FILE
            finished = output.with_suffix(".summary.json")
            if partial.is_file():
                earlier = _read_json(partial).get("clock")
            elif finished.is_file():
                earlier = (_read_json(finished).get("settings") or {}).get("clock")
    clock.freeze(broadcast_object(clock.freeze(earlier)))


class PartialResults:
    """Rows by stage and index, on disk during a run. All ranks call every method.

    Args:
        output: the file that is to be made.
        settings: all that decides the rows (JSON values).
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.output = output
        self.settings = json.loads(json.dumps(settings))
        self.folder = output.parent / f".{output.stem}.partial"
        self.summary = output.with_suffix(".summary.json")

    def finished(self) -> dict[str, Any] | None:
        """The summary of a finished run; None where there is none yet.

        Raises:
            UserError: it was made with other settings, or there is an output without a summary.
        """
        with on_all_ranks():
            if not self.output.exists():
                return None
            require(
                self.summary.is_file(),
                f"{self.output} is there, but not {self.summary.name}, which says how it was made. "
                "Move it away, or replace it with --overwrite.",
            )
            found = _read_json(self.summary)
            self._check(found.get("settings"), str(self.output))
        return found

    def open(self) -> None:
        """Make the folder, or resume the one that is there.

        Raises:
            UserError: it was started with other settings, or cannot be written.
        """
        path = self.folder / SETTINGS_FILE
        with on_all_ranks():
            if is_main():
                # A run that failed before its first row, on a damaged model say, binds nobody.
                if any(file.stat().st_size for file in self.folder.glob("*.jsonl")):
                    self._check(_read_json(path), f"The partial result {self.folder}")
                    for file in self.folder.glob("*.jsonl"):
                        _cut_torn_line(file)
                else:
                    atomic_write_json(path, self.settings)

    def discard(self) -> None:
        """Remove all that an earlier run has made (--overwrite)."""
        with on_all_ranks():
            if is_main():
                self._remove_folder()
                for path in (self.output, self.summary):
                    path.unlink(missing_ok=True)

    def rows(self, stage: str) -> Rows:
        """What all ranks of all runs have done of a stage, by index; the same on every rank."""
        found: Rows = {}
        with on_all_ranks():
            if is_main():
                for file in sorted(self.folder.glob(f"{stage}.*.jsonl")):
                    found.update({row["index"]: row for row in read_jsonl(file)})
        return broadcast_object(found)

    @contextmanager
    def writer(self, stage: str) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
        """Inside: a function that appends rows (with an `index`) to this rank's file at once."""
        path = self.folder / f"{stage}.rank-{rank()}.jsonl"
        with explain_write_errors(path), open(path, "a", encoding="utf-8") as file:

            def write(rows: Sequence[Mapping[str, Any]]) -> None:
                file.write("".join(map(json_line, rows)))
                file.flush()
                os.fsync(file.fileno())

            yield write

    def publish(self, rows: Sequence[dict[str, Any]], summary: Mapping[str, Any]) -> None:
        """Write the summary and then the output; the partial folder goes last."""
        with on_all_ranks():
            if is_main():
                atomic_write_json(self.summary, summary)
                atomic_write_text(self.output, "".join(map(json_line, rows)))
                self._remove_folder()
        log_main(f"Written: {self.output} ({len(rows)} lines) and {self.summary.name}")

    def completed(
        self, overwrite: bool, make: Callable[[], tuple[list[dict[str, Any]], dict[str, Any]]]
    ) -> dict[str, Any]:
        """The summary of the finished run, which is made, or resumed, where there is none.

        Args:
            overwrite: start over.
            make: rows of the output, and its figures.

        Raises:
            UserError: see `finished` and `open`; or whatever `make` raises.
        """
        if overwrite:
            self.discard()
        summary = self.finished()
        if summary is not None:
            self._remove_folder()  # there is one where a run was killed at its very end
            log_main(f"{self.output} is finished: nothing to do (--overwrite starts over).")
            return summary
        self.open()
        rows, figures = make()
        summary = {"figures": figures, "versions": library_versions(), "settings": self.settings}
        self.publish(rows, summary)
        return summary

    def _remove_folder(self) -> None:
        if is_main():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self, earlier: Any, what: str) -> None:
        earlier = earlier if isinstance(earlier, dict) else {}
        names = [n for n in self.settings if self.settings[n] != earlier.get(n)]
        names += [n for n in earlier if n not in self.settings]
        changes = "; ".join(
            f"{n} {earlier.get(n)!r} then, {self.settings.get(n)!r} now" for n in names
        )
        require(
            not names,
            f"{what} was made with other settings: {changes}. Give the same settings, move it "
            "away, or start over with --overwrite.",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. Start over with --overwrite.") from error
    return found if isinstance(found, dict) else {}


def _cut_torn_line(path: Path) -> None:
    """Drop what stands after the last end of line."""
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
