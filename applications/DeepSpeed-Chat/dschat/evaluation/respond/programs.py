"""Programs of responses, run against their problems' tests, as rows of a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dschat.evaluation.respond.stages import Batch
from dschat.rewards.code_execution import CodeExecutionReward, ProgramResult


@contextmanager
def running(
    reward: CodeExecutionReward, responses: Sequence[str], examples: Sequence[Mapping[str, Any]]
) -> Iterator[Batch]:
    """Rows with `reward`, `verdicts` (one for each test) and `message`.

    `message` is what the first test that ended in an error said, in the program's own words.
    Tests behind it are "not_run": the reward is settled.
    """

    def batch(indices: list[int]) -> list[dict[str, Any]]:
        chosen = [dict(examples[i]) for i in indices]
        results = reward.run([responses[i] for i in indices], chosen)
        return [
            {
                "index": i,
                "reward": result.reward,
                "verdicts": [test.verdict for test in result.tests],
                "message": _first_error(result),
            }
            for i, result in zip(indices, results, strict=True)
        ]

    yield batch


def _first_error(result: ProgramResult) -> str:
    errors = (t for t in result.tests if t.verdict not in ("passed", "wrong"))
    return next((test.message for test in errors), "")
