"""What was read, what was dropped and why."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One kind of unusable row: how many, and where the first one is."""

    kind: str
    count: int
    first: str


@dataclass(frozen=True)
class SplitReport:
    """One split of one source: raw rows in the file, raw rows in this phase's part, rows made.

    `rows` can exceed `selected`: one raw row of APPS has many solutions.
    """

    raw: int
    selected: int
    rows: int
    problems: tuple[Problem, ...] = ()

    @property
    def dropped(self) -> int:
        """How many raw rows of the part could not be used."""
        return sum(problem.count for problem in self.problems)

    def problem_lines(self) -> list[str]:
        """One line a kind of problem, the most frequent first."""
        ordered = sorted(self.problems, key=lambda problem: -problem.count)
        return [f"{p.count} x {p.kind} (first: {p.first})" for p in ordered]


@dataclass(frozen=True)
class SourceReport:
    """One data set: how it was read, its train part and its evaluation part."""

    name: str
    schema: str
    train: SplitReport
    eval: SplitReport

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "schema": self.schema,
            "train": _split_to_dict(self.train),
            "eval": _split_to_dict(self.eval),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SourceReport:
        """The inverse of `to_dict`."""
        return cls(
            values["name"],
            values["schema"],
            _split_from_dict(values["train"]),
            _split_from_dict(values["eval"]),
        )


@dataclass(frozen=True)
class DataReport:
    """All data sets of a run."""

    sources: tuple[SourceReport, ...] = field(default=())

    def log(self) -> None:
        """Log a line per split on rank 0, with a warning for every kind of unusable row."""
        if int(os.environ.get("RANK", "0")) != 0:
            return
        for source in self.sources:
            for split, report in (("train", source.train), ("eval", source.eval)):
                logger.info(
                    "%s (%s), %s: %d rows from %d of %d raw rows",
                    source.name,
                    source.schema,
                    split,
                    report.rows,
                    report.selected - report.dropped,
                    report.raw,
                )
                for line in report.problem_lines():
                    logger.warning("%s, %s: rows dropped: %s", source.name, split, line)
            if source.eval.rows == 0:
                logger.warning(
                    "%s has no evaluation rows: %s; put a test.jsonl beside train.jsonl to "
                    "evaluate on",
                    source.name,
                    "none of those held out can be used"
                    if source.eval.selected
                    else "too few rows to hold 5 % out",
                )


def _split_to_dict(report: SplitReport) -> dict[str, Any]:
    problems = [[p.kind, p.count, p.first] for p in report.problems]
    return {
        "raw": report.raw,
        "selected": report.selected,
        "rows": report.rows,
        "problems": problems,
    }


def _split_from_dict(values: dict[str, Any]) -> SplitReport:
    problems = tuple(Problem(*problem) for problem in values["problems"])
    return SplitReport(values["raw"], values["selected"], values["rows"], problems)
