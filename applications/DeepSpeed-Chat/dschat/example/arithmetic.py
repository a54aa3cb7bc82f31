"""The embedded arithmetic task: data in GSM8K's schema and a small untrained model.

    python -m dschat.example.arithmetic --output_dir DIR

DIR/adder, DIR/subtractor and DIR/correct are data sets (train.jsonl, test.jsonl) for two references
and for GRPO. The adder's answers are right where something is added, and add as well in most cases
where something is taken away; the subtractor's are the reverse. Both can calculate with either
sign, each misunderstands one kind of story. All three have the same test part, half additions and
half subtractions, right, of pairs of numbers that occur in no train part. DIR/model is a Llama with
random weights and a tokenizer with a chat template.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from dschat.errors import UserError, closed_pipe_ends_quietly
from dschat.example.arithmetic_problems import (
    OPERATIONS,
    Operation,
    make_row,
    mistaken,
    split_problems,
)
from dschat.runtime.files import write_jsonl

Row = dict[str, str]

MISTAKEN: dict[str, Operation | None] = {
    "adder": "subtraction",
    "subtractor": "addition",
    "correct": None,
}
"""The operation that each data set's train part takes for the other one, in `MISTAKEN_SHARE`."""

MISTAKEN_SHARE = 0.6


def train_rows(seed: int, misunderstood: Operation | None) -> Iterator[Row]:
    """An endless stream of rows for training, no question twice.

    Args:
        misunderstood: an operation that is taken for the other one in `MISTAKEN_SHARE` of the rows.
    """
    rng = random.Random(f"{seed} {misunderstood}")
    problems = [split_problems(operation)[0] for operation in OPERATIONS]
    seen: set[str] = set()
    while True:
        problem = rng.choice(rng.choice(problems))
        wrong = problem.operation == misunderstood and rng.random() < MISTAKEN_SHARE
        row = make_row(problem, rng, mistaken(problem) if wrong else None)
        if row["question"] not in seen:
            seen.add(row["question"])
            yield row


def test_rows(seed: int, size: int) -> list[Row]:
    """Rows for testing, additions and subtractions by turns, no problem twice.

    Raises:
        UserError: there are fewer such problems than `size`.
    """
    rng = random.Random(f"{seed} test")
    drawn = [split_problems(operation)[1] for operation in OPERATIONS]
    available = 2 * min(map(len, drawn))
    if size > available:
        raise UserError(f"--test_size is {size}; there are {available} problems to test with")
    for problems in drawn:
        rng.shuffle(problems)
    turns = chain.from_iterable(zip(*drawn, strict=False))
    return [make_row(problem, rng) for problem, _ in zip(turns, range(size), strict=False)]


def write_datasets(
    folder: Path, seed: int, train_size: int, test_size: int, correct_size: int | None = None
) -> None:
    """Write the three data sets below `folder`.

    Args:
        correct_size: rows of correct/train.jsonl; None: `train_size` too.

    Raises:
        UserError: a size is below 1 or more than there is.
    """
    correct_size = train_size if correct_size is None else correct_size
    sizes = {"train_size": train_size, "test_size": test_size, "correct_size": correct_size}
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"--{name} is {size}; it must be 1 or more")
    test = test_rows(seed, test_size)
    for name, misunderstood in MISTAKEN.items():
        rows = train_rows(seed, misunderstood)
        size = correct_size if misunderstood is None else train_size
        write_jsonl(folder / name / "train.jsonl", (next(rows) for _ in range(size)))
        write_jsonl(folder / name / "test.jsonl", test)


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.example.arithmetic",
        description="Write the embedded arithmetic task: three data sets (DIR/adder, "
        "DIR/subtractor, DIR/correct) and a small untrained Llama with its tokenizer "
        "(DIR/model).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="fixes the data and the weights")
    parser.add_argument("--train_size", type=int, default=8000, help="rows of each train.jsonl")
    parser.add_argument("--test_size", type=int, default=300, help="rows of test.jsonl")
    parser.add_argument(
        "--correct_size", type=int, help="rows of correct/train.jsonl, if not --train_size"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the task; returns the exit code."""
    args = build_parser().parse_args(argv)
    from dschat.example.arithmetic_model import write_model

    try:
        sizes = args.train_size, args.test_size, args.correct_size
        write_datasets(args.output_dir, args.seed, *sizes)
        write_model(args.output_dir / "model", args.seed)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{', '.join(MISTAKEN)}: {args.train_size} rows to train on"
        + (f" ({args.correct_size} in correct)" if args.correct_size else "")
        + f", {args.test_size} to test; untrained model in {args.output_dir / 'model'}"
    )
    return 0


if __name__ == "__main__":
    with closed_pipe_ends_quietly():
        sys.exit(main())
