"""One program against all tests of its problem. The comparison happens out here, never inside."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

from dschat.rewards.code.comparison import same_output, same_value
from dschat.rewards.code.extraction import has_statements
from dschat.rewards.code.launching import SandboxKind
from dschat.rewards.code.limits import Limits
from dschat.rewards.code.problems import Problem, TestCase, parse_json
from dschat.rewards.code.process import (
    Execution,
    SandboxClosedError,
    SandboxProcess,
    SandboxTimeoutError,
)
from dschat.rewards.code.sandbox import start_sandbox
from dschat.rewards.code.verdicts import ProgramResult, TestResult

SHOWN_CHARACTERS = 1000


def run_program(
    program: str,
    problem: Problem,
    kind: SandboxKind,
    limits: Limits,
    stop_when_decided: bool = True,
) -> ProgramResult:
    """Run a program against a problem's tests.

    Args:
        kind: the sandbox, from `choose_sandbox`.
        stop_when_decided: skip what follows a run-time error or time-out, which decides the
            reward; such tests are "not_run".

    Raises:
        UserError: the sandbox does not start.
    """
    if not has_statements(program):
        error = TestResult("compile_error", message="there is no statement in it")
        return ProgramResult(program, (error,) * len(problem.tests))
    results: list[TestResult] = []
    end = None
    while len(results) < len(problem.tests):
        with start_sandbox(kind, limits, program, problem.function) as (sandbox, message):
            if message is not None:
                error = TestResult("compile_error", message=message[:SHOWN_CHARACTERS])
                return ProgramResult(program, (error,) * len(problem.tests))
            end = end or time.monotonic() + limits.program_seconds
            results += _run_tests(sandbox, problem, problem.tests[len(results) :], end)
        left = len(problem.tests) - len(results)
        if time.monotonic() >= end:
            results += [TestResult("timeout", message="the program's time was over")] * left
        elif results[-1].verdict in ("runtime_error", "timeout") and stop_when_decided:
            results += [TestResult("not_run")] * left
    return ProgramResult(program, tuple(results))


def _run_tests(
    sandbox: SandboxProcess, problem: Problem, tests: tuple[TestCase, ...], end: float
) -> Iterator[TestResult]:
    """Results up to and with the first run-time error or time-out: what it left may disturb."""
    for test in tests:
        start = time.monotonic()
        seconds = min(sandbox.limits.test_seconds, end - start)
        try:
            execution = sandbox.run(test.input, max(0.0, seconds))
            result = _judge(execution, test, problem)
        except SandboxTimeoutError:
            result = TestResult("timeout", message="no answer in time")
        except SandboxClosedError as error:
            result = TestResult("runtime_error", message=str(error))
        seconds = time.monotonic() - start
        yield TestResult(result.verdict, result.output, result.message, seconds)
        if result.verdict in ("runtime_error", "timeout"):
            return


def _judge(execution: Execution, test: TestCase, problem: Problem) -> TestResult:
    function = problem.function
    answer = execution.output if function is None else execution.returned
    output = answer[: 4 * SHOWN_CHARACTERS].decode(errors="replace")[:SHOWN_CHARACTERS]
    message = execution.errors.decode(errors="replace")[-SHOWN_CHARACTERS:]
    if execution.exit_code == -signal.SIGXCPU:
        return TestResult("timeout", output, "used up its CPU time")
    if execution.exit_code < 0:
        return TestResult("runtime_error", output, f"ended by signal {-execution.exit_code}")
    if execution.exit_code > 0:
        return TestResult("runtime_error", output, message)
    if function is not None and not answer:
        return TestResult("runtime_error", output, "ended before the function returned")
    passed = _is_expected(answer, test, problem)
    return TestResult("passed" if passed else "wrong", output, message)


def _is_expected(answer: bytes, test: TestCase, problem: Problem) -> bool:
    if problem.function is None:
        output = answer.decode("utf-8", "surrogateescape")
        return same_output(output, test.expected, problem.numbers)
    # The bytes are the program's word: whatever it cannot be read as, it is no right answer.
    with contextlib.suppress(ValueError, RecursionError):
        return same_value(parse_json(answer), test.expected, problem.numbers)
    return False
