"""Rewards from running generated programs against test cases, in a sandbox.

The programs come from a model in training and are taken for hostile; docs/code_rewards.md says
what is kept from them and how. A program gets -1 if it does not compile, -0.6 for a run-time error
or time-out in any test, else -0.3 + 1.3 x share of passed tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

from dschat.errors import UserError
from dschat.rewards.base import RewardFunction
from dschat.rewards.code.comparison import NumberComparison
from dschat.rewards.code.execution import run_program
from dschat.rewards.code.extraction import extract_program, with_starter_code
from dschat.rewards.code.limits import Limits
from dschat.rewards.code.problems import Problem, read_problem
from dschat.rewards.code.sandbox import SANDBOXES, Sandbox, choose_sandbox
from dschat.rewards.code.verdicts import ProgramResult, TestResult, Verdict, reward_of
from dschat.settings.rewards import SandboxFlags

__all__ = [
    "SANDBOXES",
    "CodeExecutionReward",
    "Limits",
    "Problem",
    "ProgramResult",
    "Sandbox",
    "TestResult",
    "Verdict",
    "choose_sandbox",
    "code_reward",
    "extract_program",
    "read_problem",
    "reward_of",
    "summarize",
]

DEFAULT_LIMITS = Limits()


class CodeExecutionReward(RewardFunction):
    """Runs the program in each response against the tests of its example.

    A call lasts at most ceil(programs / workers) times `limits.program_seconds`, and what starting
    the sandboxes, compiling (at most `limits.test_seconds` each) and, under limits, removing the
    programs' files takes.

    Args:
        workers: how many programs run at once.
        sandbox: see `choose_sandbox`; chosen, and tried, here.
        limits: what one program may use.
        numbers: how answers that are numbers are compared: "exact", or "harness" as in APPS.

    Attributes:
        sandbox: "bwrap" or "limits", whichever was chosen.
        results: of the last call's programs, in order.

    Raises:
        UserError: `workers` is not positive, or see `choose_sandbox`.
    """

    name = "code execution"

    def __init__(
        self,
        workers: int = 4,
        sandbox: Sandbox = "auto",
        limits: Limits = DEFAULT_LIMITS,
        numbers: NumberComparison = "exact",
    ) -> None:
        if workers < 1:
            raise UserError(f"--reward_workers is {workers}; expected 1 or more.")
        self.workers = workers
        self.limits = limits
        self.numbers = numbers
        self.sandbox = choose_sandbox(sandbox)
        self.results: list[ProgramResult] = []

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One reward per response; reads `input_output` and `starter_code` of the examples.

        Raises:
            UserError: an example has no tests, or a sandbox does not start any more.
        """
        return self.explained(prompts, responses, examples)[0]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The rewards, and per program what `summarize` averages."""
        self.results = self.run(responses, examples)
        parts = {
            name: [float(measure(result)) for result in self.results]
            for name, measure in OUTCOMES.items()
        }
        return [result.reward for result in self.results], parts

    def run(
        self,
        responses: Sequence[str],
        examples: Sequence[dict[str, Any]],
        stop_when_decided: bool = True,
    ) -> list[ProgramResult]:
        """The results of all tests, in the responses' order; see `run_program`."""
        problems = [replace(read_problem(e), numbers=self.numbers) for e in examples]
        programs = [
            with_starter_code(extract_program(response), problem.starter_code, problem.function)
            for response, problem in zip(responses, problems, strict=True)
        ]

        def run(program: str, problem: Problem) -> ProgramResult:
            return run_program(program, problem, self.sandbox, self.limits, stop_when_decided)

        # Threads, which wait for the sandboxes: those do the work.
        pool = ThreadPoolExecutor(self.workers, "program")
        try:
            return list(pool.map(run, programs, problems))
        finally:
            pool.shutdown(cancel_futures=True)

    def metrics(self) -> dict[str, float]:
        """See `summarize`; of the last call."""
        return summarize(self.results)


def code_reward(flags: SandboxFlags) -> CodeExecutionReward:
    """The reward that the flags describe.

    Raises:
        UserError: the sandbox asked for does not work here.
    """
    limits = Limits(
        test_seconds=flags.test_seconds,
        program_seconds=flags.program_seconds,
        memory_mb=flags.memory_mb,
    )
    sandbox, numbers = cast(Sandbox, flags.sandbox), cast(NumberComparison, flags.number_comparison)
    return CodeExecutionReward(flags.reward_workers, sandbox, limits, numbers)


def summarize(results: Sequence[ProgramResult]) -> dict[str, float]:
    """Shares of programs by outcome, and the mean share of tests passed; {} without results.

    `compile_errors`, `runtime_errors` and `timeouts` are the shares of programs that had one,
    `solved` is the share that passed every test.
    """
    if not results:
        return {}
    return {
        name: fmean(float(measure(result)) for result in results)
        for name, measure in OUTCOMES.items()
    }


OUTCOMES: dict[str, Callable[[ProgramResult], float]] = {
    "compile_errors": lambda result: result.has("compile_error"),
    "runtime_errors": lambda result: result.has("runtime_error"),
    "timeouts": lambda result: result.has("timeout"),
    "tests_passed": lambda result: result.share_passed,
    "solved": lambda result: result.share_passed == 1,
}
"""What metrics say of a program, by name."""
