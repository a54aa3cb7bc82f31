"""The example's own problems: each solution earns the whole reward, each mistake does not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from dschat.data.schemas import detect_schema
from dschat.errors import UserError
from dschat.example.programs import PROBLEMS, program_rows, write_programs
from dschat.rewards.code_execution import CodeExecutionReward
from dschat.runtime.files import read_jsonl


@pytest.fixture(scope="module", params=["bwrap", "limits"])
def reward(request: pytest.FixtureRequest) -> CodeExecutionReward:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return CodeExecutionReward(workers=2, sandbox=request.param)
        except UserError as error:
            pytest.skip(str(error))


def run(reward: CodeExecutionReward, programs: list[str]) -> list[float]:
    rows: list[dict[str, Any]] = program_rows()
    return reward([row["question"] for row in rows], programs, rows)


@pytest.mark.slow
def test_every_solution_passes(reward: CodeExecutionReward) -> None:
    solutions = [f"Try:\n```python\n{problem.solution}```\n" for problem in PROBLEMS]
    rewards = run(reward, solutions)
    assert rewards == [1.0] * len(PROBLEMS), reward.results
    assert reward.metrics() == {
        "compile_errors": 0,
        "runtime_errors": 0,
        "timeouts": 0,
        "tests_passed": 1,
        "solved": 1,
    }


@pytest.mark.slow
def test_every_mistake_runs_and_fails(reward: CodeExecutionReward) -> None:
    rewards = run(reward, [problem.mistake for problem in PROBLEMS])
    assert all(-0.3 <= value < 1 for value in rewards), rewards
    assert reward.metrics()["solved"] == 0


@pytest.mark.slow
def test_body_after_the_starter_code(reward: CodeExecutionReward) -> None:
    row = next(row for row in program_rows() if row["starter_code"].startswith("def is_leap"))
    body = "    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)"
    assert reward([""], [body], [row]) == [1.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "earned"),
    [
        ("print(3)\nexit()", 1.0),
        ("print(3)\nquit()", 1.0),
        ("print(3)\nexit(0)", 1.0),
        ("import sys\nprint(3)\nsys.exit()", 1.0),
        ("def main():\n    print(3)\n    exit()\nmain()", 1.0),
        ("if 'help' and copyright and credits and license: print(3)", 1.0),
        ("print(3)\nexit(1)", -0.6),
        ("print(3)\nexit('no')", -0.6),
    ],
)
def test_builtins_of_site(reward: CodeExecutionReward, program: str, earned: float) -> None:
    """`site` is not imported in the sandbox; programs that end by exit() are as good as others."""
    row = {"input_output": json.dumps({"inputs": [""], "outputs": ["3"]})}
    assert reward([""], [program], [row]) == [earned], reward.results


def test_problems() -> None:
    assert len(PROBLEMS) >= 20
    assert {problem.difficulty for problem in PROBLEMS} == {
        "introductory",
        "interview",
        "competition",
    }
    assert len({problem.question for problem in PROBLEMS}) == len(PROBLEMS)
    assert 5 <= sum(problem.function is None for problem in PROBLEMS) <= len(PROBLEMS) - 5


def test_written_rows_are_read_as_apps(tmp_path: Path) -> None:
    write_programs(tmp_path)
    rows = read_jsonl(tmp_path / "train.jsonl")
    schema = detect_schema(rows, "rows")
    assert schema.name == "apps"
    assert len(rows) == len(PROBLEMS)
    for row, problem in zip(rows, PROBLEMS, strict=True):
        (sft,) = schema.rows(row, "sft")
        assert sft.chosen == problem.solution
        (rl,) = schema.rows(row, "rl")
        assert rl.example["starter_code"] == problem.starter_code
        assert len(json.loads(rl.example["input_output"])["inputs"]) == len(problem.tests)
