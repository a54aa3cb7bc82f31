"""What a programming problem of the example is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ProgrammingProblem:
    """A problem.

    Attributes:
        question: the task in words.
        solution: a program that passes every test.
        mistake: a program that runs and fails at least one.
        tests: pairs of an input and what is expected: standard input and output, or the list of
            the arguments and the value to return.
        difficulty: in the words of APPS.
        function: what is called; None for standard input.
        starter_code: the function's head; "" for standard input.
    """

    question: str
    solution: str
    mistake: str
    tests: tuple[tuple[Any, Any], ...]
    difficulty: Literal["introductory", "interview", "competition"] = "introductory"
    function: str | None = None
    starter_code: str = ""
