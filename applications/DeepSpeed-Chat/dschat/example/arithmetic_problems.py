"""Problems of the embedded arithmetic task: short stories of one addition or one subtraction.

A problem is two numbers and an operation; a row tells it in any of several wordings. Pairs of
numbers, not rows, are divided into those for training and those for testing, so that no problem of
the test part is seen in training in another wording or with its operation mistaken.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Operation = Literal["addition", "subtraction"]
OPERATIONS: tuple[Operation, ...] = ("addition", "subtraction")
SIGNS: dict[Operation, str] = {"addition": "+", "subtraction": "-"}

LARGEST = 99
"""The largest number in a problem and in its answer; the smallest is 0 in answers, else 1."""

LARGEST_SECOND = 5
"""The largest second number. With 9, a model that saw mostly subtractions was right in 62 % of them
after 625 steps of 16 rows; with 5, in 95 % after 500."""

TEST_SHARE = 3
"""One pair of numbers in so many belongs to the test part."""

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gina", "Hugo")
THINGS = ("apples", "books", "coins", "stamps", "shells", "cards", "pens", "nuts")
STORIES: dict[Operation, tuple[str, ...]] = {
    "addition": (
        "{name} has {a} {things} and buys {b} more. How many now?",
        "{name} finds {a} {things} and then {b} more. How many in all?",
        "{name} has {a} {things} and is given {b}. How many now?",
    ),
    "subtraction": (
        "{name} has {a} {things} and sells {b}. How many are left?",
        "{name} finds {a} {things} and then loses {b}. How many are left?",
        "{name} has {a} {things} and gives away {b}. How many are left?",
    ),
}


@dataclass(frozen=True)
class Problem:
    """Two numbers and what is done with them: a + b, or a - b with b not above a."""

    operation: Operation
    a: int
    b: int

    @property
    def result(self) -> int:
        """The right answer."""
        return self.a + self.b if self.operation == "addition" else self.a - self.b


def mistaken(problem: Problem) -> Problem:
    """The other operation on the same numbers; the problem itself where that leaves the range."""
    other: Operation = "subtraction" if problem.operation == "addition" else "addition"
    swapped = Problem(other, problem.a, problem.b)
    return swapped if 0 <= swapped.result <= LARGEST else problem


def all_problems(operation: Operation) -> list[Problem]:
    """Every problem of an operation: numbers from 1, results from 0, all up to `LARGEST`."""
    numbers = range(1, LARGEST + 1)
    problems = (Problem(operation, a, b) for a in numbers for b in numbers if b <= LARGEST_SECOND)
    return [problem for problem in problems if 0 <= problem.result <= LARGEST]


def split_problems(operation: Operation) -> tuple[list[Problem], list[Problem]]:
    """The problems for training and those for testing, the same for every seed.

    A pair of numbers is on one side with both operations: who takes one for the other in training
    does not meet a problem of the test part.
    """
    pairs = [(a, b) for a in range(1, LARGEST + 1) for b in range(1, LARGEST_SECOND + 1)]
    random.Random("pairs").shuffle(pairs)
    held_out = set(pairs[: len(pairs) // TEST_SHARE])
    problems = all_problems(operation)
    train = [problem for problem in problems if (problem.a, problem.b) not in held_out]
    return train, [problem for problem in problems if (problem.a, problem.b) in held_out]


def make_row(
    problem: Problem, rng: random.Random, understood: Problem | None = None
) -> dict[str, str]:
    """A data row in the schema of GSM8K, in any wording.

    Args:
        understood: the problem that the answer solves, where it is another one.
    """
    solved = understood or problem
    story = rng.choice(STORIES[problem.operation])
    question = story.format(
        name=rng.choice(NAMES), things=rng.choice(THINGS), a=problem.a, b=problem.b
    )
    return {"question": question, "answer": f"{reasoning(solved)}\n#### {solved.result}"}


def reasoning(problem: Problem) -> str:
    """The last digits by themselves, with a ten lent where it is needed, and then the whole."""
    sign = SIGNS[problem.operation]
    ones = problem.a % 10
    if problem.operation == "subtraction" and ones < problem.b:
        ones += 10
    first = Problem(problem.operation, ones, problem.b)
    return "\n".join(f"{p.a}{sign}{p.b}={p.result}" for p in (first, problem))
