"""Judgments on disk: appended one by one, so that a stopped run can be resumed.

Beside the output NAME.jsonl there is NAME.summary.json, with the settings from the start and the
figures at the end.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dschat.errors import UserError
from dschat.evaluation.judging.pairs import Pair, occurrences
from dschat.runtime.files import atomic_write_json, explain_write_errors, read_jsonl, write_jsonl
from dschat.settings.command_line import require

WINNERS = ("A", "B", "Tie", None)
FIELDS = ("prompt", "A response", "B response")


def record_of(
    pair: Pair, winner: str | None, outcome: str, comment: str, answers: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The line of a judged pair.

    Args:
        winner: "A", "B", "Tie", or None where the judge's answer cannot be read.
        outcome: "judged", "disagreement" (of the two orders, a tie) or "unparsable".
        answers: of each order, which model was shown `first` and what was the `choice`.
    """
    return {
        "prompt": pair.prompt,
        "A response": pair.responses[0],
        "B response": pair.responses[1],
        "A reward": pair.rewards[0],
        "B reward": pair.rewards[1],
        "winner": winner,
        "comment": comment,
        "outcome": outcome,
        "category": pair.category,
        "line": pair.line,
        "answers": list(answers),
    }


class Records:
    """The judgments of `pairs` in one file; a context in which nobody else writes to it.

    Args:
        settings: all that decides a judgment besides the pair (JSON values).

    Raises:
        UserError: on entering, where the file was made with other settings, of other pairs, is
            in use, or cannot be written.
    """

    def __init__(
        self, output: str, pairs: Sequence[Pair], settings: Mapping[str, Any], overwrite: bool
    ) -> None:
        self.output = Path(output)
        # Not the stem: the names A-v.s.-B and A-v.s.-C share it.
        name = self.output.name.removesuffix(".jsonl")
        self.summary = self.output.with_name(name + ".summary.json")
        self.pairs = pairs
        self.settings = json.loads(json.dumps(settings))
        self.overwrite = overwrite
        self.done: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Records:
        with explain_write_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.output, "a+b")
        self._lock()
        try:
            if self._size() and not self.overwrite:
                self._check_settings()  # first: a file of something else shall stay as it is
                self._drop_torn_line()
                self.done = self._match(read_jsonl(self.output))
        except BaseException:
            self._close()
            raise
        return self

    def begin(self) -> None:
        """Get ready to write: only now is an earlier file emptied (`overwrite`)."""
        if self.overwrite:
            self._file.truncate(0)
        if not self.done:
            atomic_write_json(self.summary, {"settings": self.settings})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        with explain_write_errors(self.output):  # what a full disk did not take is tried again
            if not self._size() and self.output.exists() and not self.output.stat().st_size:
                self.output.unlink()  # nothing was judged
            self._file.close()

    def _size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def todo(self) -> list[Pair]:
        """The pairs without a judgment."""
        return [pair for pair in self.pairs if pair.line not in self.done]

    def append(self, record: dict[str, Any]) -> None:
        """Add one line; it is on the disk when this returns."""
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")
        with explain_write_errors(self.output):
            # Ctrl-C during the write is raised after it: it must be known then that it is written.
            self.done[record["line"]] = record
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def remove_last(self) -> bool:
        """Take back the last judgment; False where there is none."""
        if not self.done:
            return False
        self._file.seek(0)
        text = self._file.read()
        with explain_write_errors(self.output):
            self._file.truncate(text.rfind(b"\n", 0, len(text) - 1) + 1)
            os.fsync(self._file.fileno())
        self.done.popitem()
        return True

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Put the lines in the order of the pairs, and write the figures beside them."""
        write_jsonl(self.output, [self.done[line] for line in sorted(self.done)])
        atomic_write_json(self.summary, {"settings": self.settings, "figures": dict(figures)})

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"{self.output} is being written by another run. Wait for it, or give another "
                "--output."
            ) from None

    def _drop_torn_line(self) -> None:
        """Drop what a kill has left after the last end of line."""
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def _check_settings(self) -> None:
        advice = "Give another --output, or start over with --overwrite."
        try:
            earlier = json.loads(self.summary.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.output} is there, but {self.summary.name} beside it does not say how it "
                f"was made. {advice}"
            ) from None
        names = [n for n in self.settings if self.settings[n] != earlier.get(n)]
        changes = "; ".join(f"{n} {earlier.get(n)!r} then, {self.settings[n]!r} now" for n in names)
        require(not names, f"{self.output} was made with other settings: {changes}. {advice}")

    def _match(self, rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The rows by the line of their pair; a pair that stands twice is judged twice."""
        keys = [pair.key for pair in self.pairs]
        lines = {
            (key, count): pair.line
            for key, count, pair in zip(keys, occurrences(keys), self.pairs, strict=True)
        }
        found = [tuple(row.get(name) for name in FIELDS) for row in rows]
        done = {}
        for row, key, count in zip(rows, found, occurrences(found), strict=True):
            line = lines.get((key, count))  # type: ignore[arg-type]
            require(
                line is not None,
                f"{self.output} holds a judgment of a pair that is not among the "
                f"{len(self.pairs)} given: {row.get('prompt')!r:.80}. Give the same files and no "
                "smaller --num_sample, another --output, or start over with --overwrite.",
            )
            require(
                row.get("winner", "") in WINNERS,
                f"{self.output}: the winner of line {line} is {row.get('winner')!r:.40}; expected "
                '"A", "B", "Tie" or null. Give another --output, or start over with --overwrite.',
            )
            done[int(line or 0)] = {**row, "line": line}
        return done
