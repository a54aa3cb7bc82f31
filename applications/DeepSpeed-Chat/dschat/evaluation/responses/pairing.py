"""The responses of two files to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dschat.evaluation.judging.pairs import occurrences, read_responses
from dschat.settings.command_line import require

HEAD_LENGTH = 60


@dataclass(frozen=True)
class Pair:
    """One prompt with both responses and their rewards, A first; `line` is A's, from 1."""

    line: int
    prompt: str
    responses: tuple[str, str]
    rewards: tuple[float, float]

    @property
    def difference(self) -> float:
        """A's reward minus B's."""
        return self.rewards[0] - self.rewards[1]


@dataclass(frozen=True)
class Paired:
    """The pairs in the order of A, and how many lines of each file have no partner."""

    pairs: list[Pair]
    names: tuple[str, str]
    unpaired: tuple[int, int]


def read_paired(path_a: str, path_b: str, allow_unpaired: bool = False) -> Paired:
    """Pair the lines of two files by their prompts, wherever they stand.

    A prompt's first line in A goes with its first one in B, its second with its second, and so on.

    Raises:
        UserError: a file cannot be used, a line has no reward, no prompt is in both files, or,
            unless `allow_unpaired`, a line has no partner.
    """
    files = (_read(path_a), _read(path_b))
    keys = [_keys(rows) for rows in files]
    places = {key: i for i, key in enumerate(keys[1])}
    pairs = []
    for i, key in enumerate(keys[0]):
        if key in places:
            a, b = files[0][i], files[1][places[key]]
            pairs.append(
                Pair(
                    i + 1,
                    a["prompt"],
                    (a["response"], b["response"]),
                    (float(a["reward"]), float(b["reward"])),
                )
            )
    unpaired = (len(files[0]) - len(pairs), len(files[1]) - len(pairs))
    require(bool(pairs), f"{path_a} and {path_b} have no prompt in common.")
    if any(unpaired) and not allow_unpaired:
        in_one = 0 if unpaired[0] else 1
        other = set(keys[1 - in_one])
        row, key = next((i, k) for i, k in enumerate(keys[in_one], start=1) if k not in other)
        require(
            False,
            f"{unpaired[0]} of {len(files[0])} lines of {path_a} and {unpaired[1]} of "
            f"{len(files[1])} lines of {path_b} have no partner with their prompt in the other "
            f"file; the first is row {row} of {(path_a, path_b)[in_one]}: {head(key[0])}. Give "
            "responses to the same prompts, or leave these out with --allow_unpaired.",
        )
    return Paired(pairs, _names(path_a, path_b), unpaired)


def _read(path: str) -> list[dict[str, Any]]:
    rows = read_responses(path, replace_halves=True)
    for number, row in enumerate(rows, start=1):
        require(
            row.get("reward") is not None,
            f"{path}, row {number} has no reward. Score the responses, as "
            "inference_with_rewards.py does.",
        )
    return rows


def _keys(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    prompts = [row["prompt"] for row in rows]
    return list(zip(prompts, occurrences(prompts), strict=True))


def _names(path_a: str, path_b: str) -> tuple[str, str]:
    """The files' names, with as many folders as tell them apart."""
    a, b = (Path(path).resolve().with_suffix("").parts for path in (path_a, path_b))
    length = 1
    while a[-length:] == b[-length:] and length < max(len(a), len(b)):
        length += 1
    if a[-length:] == b[-length:]:  # they differ in the suffix only
        return path_a, path_b
    return "/".join(a[-length:]), "/".join(b[-length:])


def head(text: str) -> str:
    """The beginning of a text, quoted, for messages."""
    return repr(text if len(text) <= HEAD_LENGTH else text[:HEAD_LENGTH] + "...")
