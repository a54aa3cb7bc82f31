"""Two models' responses to the same prompts: read from files, and in which order they are shown."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dschat.evaluation.judging.instructions import Choice
from dschat.runtime.files import read_jsonl
from dschat.settings.command_line import require

# The line that `dschat.data` writes before a post, and the line before it.
SUBREDDIT = re.compile(r"\A\s*(?:POST\s*\n)?\s*SUBREDDIT:\s*(r/\S+)", re.IGNORECASE)
HEAD_LENGTH = 60
SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Pair:
    """One prompt with both responses. `line` counts from 1; `category` may be absent."""

    line: int
    prompt: str
    responses: tuple[str, str]
    rewards: tuple[float | None, float | None]
    category: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What a judgment is of."""
        return (self.prompt, *self.responses)


def read_responses(path: str, replace_surrogates: bool = False) -> list[dict[str, Any]]:
    """The lines {prompt, response, reward} of a file; other fields are kept.

    Args:
        replace_surrogates: write U+FFFD for lone surrogates, which are refused otherwise.

    Raises:
        UserError: the file is empty or a line lacks a field or has one of another kind.
    """
    rows = read_jsonl(path)
    require(bool(rows), f"{path} holds no line; expected lines {{prompt, response, reward}}.")
    if replace_surrogates:
        rows = [{name: _without_surrogates(value) for name, value in row.items()} for row in rows]
    for number, row in enumerate(rows, start=1):
        for name in ("prompt", "response"):
            require(
                _is_text(row.get(name)),
                f"{path}, row {number}: expected a text as {name!r}, found {row.get(name)!r:.60}.",
            )
        reward = row.get("reward")
        is_number = isinstance(reward, (int, float)) and not isinstance(reward, bool)
        require(
            reward is None or (is_number and math.isfinite(reward)),
            f"{path}, row {number}: expected a finite number as 'reward', found {reward!r:.60}.",
        )
    return rows


def read_pairs(path_a: str, path_b: str, num_sample: int | None = None) -> list[Pair]:
    """The pairs of two files whose lines have the same prompts; the first `num_sample` of them.

    Raises:
        UserError: a file cannot be used, or the prompts differ (the message says on which line).
    """
    rows_a, rows_b = read_responses(path_a), read_responses(path_b)
    for number, (a, b) in enumerate(zip(rows_a, rows_b, strict=False), start=1):
        require(
            a["prompt"] == b["prompt"],
            f"The prompts of line {number} differ: {_head(a['prompt'], b['prompt'])} in {path_a}, "
            f"{_head(b['prompt'], a['prompt'])} in {path_b}. Sample both files with "
            "sample_from_dataset.py and one --seed, from responses to the same prompts.",
        )
    require(
        len(rows_a) == len(rows_b),
        f"{path_a} has {len(rows_a)} lines, {path_b} has {len(rows_b)}: line "
        f"{min(len(rows_a), len(rows_b)) + 1} is in one of them only. Give responses to the same "
        "prompts.",
    )
    pairs = [
        Pair(
            line,
            a["prompt"],
            (a["response"], b["response"]),
            (a.get("reward"), b.get("reward")),
            category_of(a),
        )
        for line, (a, b) in enumerate(zip(rows_a, rows_b, strict=True), start=1)
    ]
    return pairs[:num_sample]


def first_shown(pair: Pair, seed: int) -> str:
    """ "A" or "B", at random, and always the same for one pair and seed."""
    return random.Random(f"{seed}\n{pair.line}\n{pair.prompt}").choice("AB")


def in_order(pair: Pair, first: str) -> tuple[str, str]:
    """The two responses as they are shown."""
    a, b = pair.responses
    return (a, b) if first == "A" else (b, a)


def winner_of(choice: Choice | None, first: str) -> str | None:
    """The model of a choice: "A", "B" or "Tie"; None of an answer that cannot be read."""
    if choice == "first":
        return first
    if choice == "second":
        return "B" if first == "A" else "A"
    return "Tie" if choice == "tie" else None


def category_of(row: dict[str, Any]) -> str | None:
    """The row's `category` or `subreddit`, or the subreddit that its prompt begins with."""
    for name in ("category", "subreddit"):
        if isinstance(row.get(name), str):
            return str(row[name])
    found = SUBREDDIT.match(row["prompt"])
    return found.group(1) if found else None


def occurrences(keys: Sequence[Any]) -> list[int]:
    """For each key, how often it has stood before."""
    seen: dict[Any, int] = {}
    counts = []
    for key in keys:
        counts.append(seen.get(key, 0))
        seen[key] = counts[-1] + 1
    return counts


def _without_surrogates(value: Any) -> Any:
    return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


def _is_text(value: Any) -> bool:
    """A string that a file can hold: without lone surrogates."""
    try:
        return isinstance(value, str) and value.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _head(text: str, other: str) -> str:
    """A short piece of `text` around the first character that `other` does not share."""
    shared = next(
        (i for i, (x, y) in enumerate(zip(text, other, strict=False)) if x != y),
        min(len(text), len(other)),
    )
    start = max(0, shared - HEAD_LENGTH // 2)
    piece = text[start : start + HEAD_LENGTH]
    before = "..." if start else ""
    after = "..." if start + HEAD_LENGTH < len(text) else ""
    return repr(f"{before}{piece}{after}")
