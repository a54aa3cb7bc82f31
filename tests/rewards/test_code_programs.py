"""From a response and a row to a program, its tests and its reward; nothing is run here."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards.code.extraction import extract_program, has_statements, with_starter_code
from dschat.rewards.code.verdicts import ProgramResult, TestResult, Verdict
from dschat.rewards.code_execution import Limits, read_problem, reward_of, summarize


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("print(1)\n", "print(1)\n"),
        ("Here:\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
        ("```py\nfirst\n```\nbetter:\n```python3\nsecond\n```", "second\n"),
        ("```\nplain\n```", "plain\n"),
        ("```python\ncode\n```\nprints\n```\n1 2\n```\n", "code\n"),
        ("```Python\nprint(1)", "print(1)"),
        ("  ```python\n  if a:\n    b\n  ```", "if a:\n  b\n"),
        ("```cpp\nint main() {}\n```", "```cpp\nint main() {}\n```"),
        ("```python\n```", ""),
        ("", ""),
        ("x = '```'\nprint(x)", "x = '```'\nprint(x)"),
        ("```\tpython title=x.py \nprint(1)\n```", "print(1)\n"),
        ("```python`\nprint(1)\n```", ""),  # a backtick behind it: no fence
    ],
)
def test_extraction(response: str, program: str) -> None:
    assert extract_program(response) == program


@pytest.mark.parametrize("filler", ["a", " ", "\t", "a "])
def test_extraction_takes_time_in_proportion(filler: str) -> None:
    """Of a line that is almost a fence: a response of ten times the length must not stall a run."""

    def seconds(n: int) -> float:
        response = "```" + filler * n + "`"
        start = time.process_time()
        for _ in range(10):
            assert extract_program(response) == response
        return time.process_time() - start

    assert seconds(20_000) < 1.0  # it takes some milliseconds; in proportion to the square, minutes


def test_starter_code_goes_before_a_body() -> None:
    head = "def f(n):\n    "
    assert with_starter_code("    return n", head, "f") == "def f(n):\n    return n"
    assert with_starter_code("def f(n): return 1", head, "f") == "def f(n): return 1"
    assert with_starter_code("return n", "", "f") == "return n"
    assert with_starter_code("print(1)", head, None) == "print(1)"
    assert with_starter_code("def ff(n): return 1", head, "f").startswith("def f(n):\n")


def test_statements() -> None:
    assert has_statements("pass")
    assert not has_statements("\n  # nothing\n\t\n")


@pytest.mark.parametrize(
    ("verdicts", "reward"),
    [
        (["passed", "passed"], 1.0),
        (["passed", "wrong"], 0.35),
        (["wrong"], -0.3),
        (["passed", "runtime_error"], -0.6),
        (["timeout", "not_run"], -0.6),
        (["compile_error"] * 2, -1.0),
        (["passed"] * 3 + ["wrong"] * 7, 0.09),
    ],
)
def test_rewards(verdicts: list[Verdict], reward: float) -> None:
    assert reward_of(verdicts) == pytest.approx(reward, abs=1e-12)


def test_all_passed_is_exactly_1() -> None:
    assert {reward_of(["passed"] * n) for n in range(1, 50)} == {1.0}


def test_metrics() -> None:
    def result(*verdicts: Verdict) -> ProgramResult:
        return ProgramResult("", tuple(map(TestResult, verdicts)))

    results = [
        result("passed", "passed"),
        result("passed", "wrong"),
        result("timeout", "not_run"),
        result("compile_error", "compile_error"),
    ]
    assert summarize(results) == {
        "compile_errors": 0.25,
        "runtime_errors": 0.0,
        "timeouts": 0.25,
        "tests_passed": 0.375,
        "solved": 0.25,
    }
    assert summarize([]) == {}


def test_problem_with_standard_input() -> None:
    tests = {"inputs": ["1\n", ["2", 3]], "outputs": ["1\n", ["2", "3"]]}
    problem = read_problem({"input_output": json.dumps(tests), "starter_code": None})
    assert [(test.input, test.expected) for test in problem.tests] == [
        ("1\n", "1\n"),
        ("2\n3", "2\n3"),
    ]
    assert problem.function is None
    assert read_problem({"input_output": tests}) == problem


def test_problem_with_calls() -> None:
    digits = "7" * 5000
    text = f'{{"fn_name": "f", "inputs": [[1, "a"], [{digits}]], "outputs": [2, [{digits}]]}}'
    problem = read_problem({"input_output": text, "starter_code": "def f(x):"})
    assert problem.function == "f"
    assert json.loads(problem.tests[0].input) == [1, "a"]
    assert digits in problem.tests[1].input
    assert problem.starter_code == "def f(x):"


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "{",
        "[]",
        {"inputs": [], "outputs": []},
        {"inputs": ["1"], "outputs": []},
        {"inputs": "1", "outputs": "1"},
        {"inputs": ["1"], "outputs": ["1"], "fn_name": "f"},
        {"inputs": [[1]], "outputs": [1], "fn_name": "os.system"},
        "[" * 100_000,
    ],
)
def test_unusable_tests_are_a_user_error(given: Any) -> None:
    with pytest.raises(UserError, match="problem 17"):
        read_problem({"input_output": given, "problem_id": 17})


@pytest.mark.parametrize(
    "given", [{"test_seconds": 0}, {"memory_mb": -1}, {"test_seconds": float("inf")}]
)
def test_unusable_limits(given: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        Limits(**given)  # type: ignore[arg-type]
