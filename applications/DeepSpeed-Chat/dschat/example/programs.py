"""The example's programming problems as rows of the form of APPS (arXiv 2105.09938)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dschat.example.programs_of_calls import CALLS
from dschat.example.programs_of_input import STANDARD_INPUT, Problem
from dschat.runtime.files import write_jsonl

PROBLEMS: tuple[Problem, ...] = (*STANDARD_INPUT, *CALLS)


def program_rows() -> list[dict[str, Any]]:
    """One row per problem, with the columns that codeparrot/apps has."""
    return [_row(number, problem) for number, problem in enumerate(PROBLEMS)]


def _row(number: int, problem: Problem) -> dict[str, Any]:
    inputs, outputs = zip(*problem.tests, strict=True)
    tests: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    if problem.function is not None:
        tests["fn_name"] = problem.function
    return {
        "problem_id": number,
        "question": problem.question,
        "solutions": json.dumps([problem.solution]),
        "input_output": json.dumps(tests),
        "difficulty": problem.difficulty,
        "url": "",
        "starter_code": problem.starter_code,
    }


def write_programs(folder: Path) -> None:
    """Write `folder`/train.jsonl: the problems are few and all for training."""
    write_jsonl(folder / "train.jsonl", program_rows())
