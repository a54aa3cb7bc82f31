"""codeparrot/apps: programming problems with solutions and unit tests.

Source: Hendrycks et al. 2021, arXiv 2105.09938. A raw row: {"problem_id", "question", "solutions":
JSON list of programs, "input_output": JSON {"inputs", "outputs", "fn_name" (some)}, "difficulty",
"url", "starter_code"}; `solutions` or `input_output` is an empty string where there are none.
"""

from __future__ import annotations

import json
import keyword
from typing import Any

from dschat.data.rows import Phase, RawRow, Row, RowError, text
from dschat.data.schemas.base import Schema, has_columns
from dschat.errors import too_deep

EXAMPLE_FIELDS = ("problem_id", "question", "input_output", "starter_code", "difficulty")


def _parsed(raw: RawRow, name: str) -> Any:
    """The field's JSON; local copies may have the value itself."""
    value = raw.get(name)
    if value is None:
        raise RowError(f"missing field {name!r}")
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        # Some tests hold integers of more digits than Python reads; nothing is computed with them.
        parsed = json.loads(value, parse_int=str)
    except ValueError as error:
        raise RowError(f"field {name!r} is not JSON") from error
    except RecursionError as error:
        raise RowError(f"field {name!r} is nested too deeply") from error
    if too_deep(parsed):
        raise RowError(f"field {name!r} is nested too deeply")
    return parsed


def _solutions(raw: RawRow) -> list[str]:
    solutions = _parsed(raw, "solutions") or []
    if not isinstance(solutions, list):
        raise RowError("field 'solutions' is not a list")
    return [text(solution, "solutions") for solution in solutions]


def _require_tests(raw: RawRow) -> None:
    """Refuse tests that `dschat.rewards.code.problems.read_problem` would stop the run for."""
    tests = _parsed(raw, "input_output")
    if not isinstance(tests, dict) or not tests.get("inputs") or not tests.get("outputs"):
        raise RowError("no unit tests in 'input_output'")
    inputs, outputs, function = tests["inputs"], tests["outputs"], tests.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise RowError("'inputs' or 'outputs' in 'input_output' is not a list")
    if len(inputs) != len(outputs):
        raise RowError("unequal numbers of inputs and outputs in 'input_output'")
    if function is None:
        return
    if not isinstance(function, str) or not function.isidentifier() or keyword.iskeyword(function):
        raise RowError("'fn_name' in 'input_output' is not a function's name")
    if not all(isinstance(arguments, list) for arguments in inputs):
        raise RowError("arguments in 'input_output' that are not a list")


def apps_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """A row per solution in SFT; one row per problem in RL, with the fields that tests need."""
    prompt = f"### Problem:\n{text(raw.get('question'), 'question')}\n\n### Response:\n"
    if phase == "rl":
        _require_tests(raw)
        return [Row(prompt, example={name: raw.get(name) for name in EXAMPLE_FIELDS})]
    solutions = _solutions(raw)
    if not solutions:
        raise RowError("no solution")
    return [Row(prompt, solution) for solution in solutions]


APPS = Schema(
    name="apps",
    columns="question, solutions (JSON list), input_output (JSON), starter_code, difficulty",
    matches=has_columns("question", "solutions"),
    rows=apps_rows,
    phases=("sft", "rl"),
)
