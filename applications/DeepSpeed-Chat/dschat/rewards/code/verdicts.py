"""What came out of a program's tests, and the reward that it gets for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "wrong", "runtime_error", "timeout", "compile_error", "not_run"]

COMPILE_ERROR_REWARD = -1.0
RUNTIME_ERROR_REWARD = -0.6
WRONG_REWARD = -0.3
PASSED_REWARD = 1.0


@dataclass(frozen=True)
class TestResult:
    """One test.

    Attributes:
        verdict: "not_run" where an earlier test had decided the reward.
        output: the beginning of what the program answered, for people to look at.
        message: the end of what it wrote to standard error, or what happened to it.
        seconds: wall-clock time.
    """

    __test__ = False  # no test class, whatever pytest makes of the name

    verdict: Verdict
    output: str = ""
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class ProgramResult:
    """All tests of a program, in the data's order.

    Attributes:
        program: the text that was run.
        tests: one result per test case.
    """

    program: str
    tests: tuple[TestResult, ...]

    @property
    def reward(self) -> float:
        """See `reward_of`."""
        return reward_of([test.verdict for test in self.tests])

    @property
    def share_passed(self) -> float:
        """The share of tests that passed; tests not run did not."""
        return sum(test.verdict == "passed" for test in self.tests) / len(self.tests)

    def has(self, verdict: Verdict) -> bool:
        """Whether some test ended so."""
        return any(test.verdict == verdict for test in self.tests)


def reward_of(verdicts: Sequence[Verdict]) -> float:
    """-1 for a compile error, -0.6 for a run-time error or time-out in any test, else
    -0.3 + 1.3 x share of passed tests.

    The steps are those of CodeRL (Le et al. 2022, arXiv 2207.01780), whose -0.3 (some test failed)
    and +1 (all passed) are joined by the share.
    """
    if "compile_error" in verdicts:
        return COMPILE_ERROR_REWARD
    if not {"runtime_error", "timeout", "not_run"}.isdisjoint(verdicts):
        return RUNTIME_ERROR_REWARD
    share = sum(verdict == "passed" for verdict in verdicts) / len(verdicts)
    # Not -0.3 + 1.3 x share: in floating point that is not quite 1 for a share of 1.
    return PASSED_REWARD * share + WRONG_REWARD * (1 - share)
