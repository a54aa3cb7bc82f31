"""The responses of several models to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dschat.evaluation.judging.pairs import occurrences, read_responses
from dschat.settings.command_line import require

HEAD_LENGTH = 60

Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Aligned:
    """Rows {prompt, response, reward, ...} of several models.

    Attributes:
        names: of the models, A first.
        rows: by model, then by prompt in the order of A: rows of one index have one prompt.
        lines: their numbers in A's file, from 1.
        unpaired: rows of each model whose prompt is not in all files.
    """

    names: list[str]
    rows: list[Rows]
    lines: list[int]
    unpaired: list[int]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each index."""
        return [row["prompt"] for row in self.rows[0]]

    def column(self, name: str) -> list[list[Any]]:
        """A field of all rows, by model."""
        return [[row[name] for row in rows] for rows in self.rows]

    def spread(self, index: int) -> float:
        """The largest difference of two models' rewards."""
        rewards = [rows[index]["reward"] for rows in self.rows]
        return float(max(rewards) - min(rewards))

    def largest(self, count: int) -> list[int]:
        """Indices of the prompts whose rewards differ most; of equal ones the first."""
        return sorted(range(len(self.lines)), key=lambda i: -self.spread(i))[:count]


def read_aligned(paths: Sequence[str], allow_unpaired: bool = False) -> Aligned:
    """Read files and align their rows by the prompts, in whatever order.

    Raises:
        UserError: a file cannot be used, a line has no reward, no prompt is in all files, or,
            unless `allow_unpaired`, a line's prompt is not in every file.
    """
    return align(short_names(paths), [_read(path) for path in paths], paths, allow_unpaired)


def align(
    names: Sequence[str], files: Sequence[Rows], paths: Sequence[str], allow_unpaired: bool = False
) -> Aligned:
    """See `read_aligned`. A prompt's first row of A goes with its first of B, and so on."""
    positions = [{key: i for i, key in enumerate(_keys(rows))} for rows in files]
    shared = [key for key in positions[0] if all(key in each for each in positions)]
    require(bool(shared), f"{' and '.join(paths)} have no prompt in common.")
    unpaired = [len(rows) - len(shared) for rows in files]
    if any(unpaired) and not allow_unpaired:
        at = next(i for i, count in enumerate(unpaired) if count)
        known = set(shared)
        row, key = next((i, k) for k, i in positions[at].items() if k not in known)
        counts = " and ".join(
            f"{count} of {len(rows)} lines of {path}"
            for count, rows, path in zip(unpaired, files, paths, strict=True)
        )
        require(
            False,
            f"{counts} have no partner with their prompt in every other file; the first is row "
            f"{row + 1} of {paths[at]}: {head(key[0])}. Give responses to the same prompts, or "
            "skip these with --allow_unpaired.",
        )
    return Aligned(
        list(names),
        [[rows[of[key]] for key in shared] for rows, of in zip(files, positions, strict=True)],
        [positions[0][key] + 1 for key in shared],
        unpaired,
    )


def _read(path: str) -> Rows:
    rows = read_responses(path, replace_surrogates=True)
    for number, row in enumerate(rows, start=1):
        require(
            row.get("reward") is not None,
            f"{path}, row {number} has no reward. Score the responses, as "
            "inference_with_rewards.py does.",
        )
    return rows


def _keys(rows: Rows) -> list[tuple[str, int]]:
    prompts = [row["prompt"] for row in rows]
    return list(zip(prompts, occurrences(prompts), strict=True))


def short_names(paths: Sequence[str]) -> list[str]:
    """The files' names, with as many folders as tell them apart."""
    parts = [Path(path).resolve().with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)  # two differ in the suffix only


def head(text: str) -> str:
    """The beginning of a text, quoted, for messages."""
    return repr(text if len(text) <= HEAD_LENGTH else text[:HEAD_LENGTH] + "...")
