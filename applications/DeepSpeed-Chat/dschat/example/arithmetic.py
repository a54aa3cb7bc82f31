"""The embedded arithmetic task: data in GSM8K's schema and a small untrained model.

    python -m dschat.example.arithmetic --output_dir DIR

DIR/mostly_additions, DIR/mostly_subtractions and DIR/mixed are data sets (train.jsonl, test.jsonl)
for two references that know different things and for GRPO; all three have the same test part, half
additions and half subtractions, of problems that occur in no train part. DIR/model is a Llama
with random weights and a tokenizer with a chat template.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from dschat.errors import UserError
from dschat.example.arithmetic_problems import OPERATIONS, make_row, split_problems
from dschat.utils.files import write_jsonl

Row = dict[str, str]

ADDITIONS: dict[str, float] = {"mostly_additions": 0.85, "mostly_subtractions": 0.15, "mixed": 0.5}
"""Share of additions in each data set's train part."""


def train_rows(seed: int, additions: float) -> Iterator[Row]:
    """An endless stream of rows for training, no question twice.

    Args:
        additions: share of additions; the others are subtractions.
    """
    rng = random.Random(f"{seed} {additions}")
    problems = [split_problems(operation)[0] for operation in OPERATIONS]
    seen: set[str] = set()
    while True:
        problem = rng.choice(problems[0 if rng.random() < additions else 1])
        row = make_row(problem, rng)
        if row["question"] not in seen:
            seen.add(row["question"])
            yield row


def test_rows(seed: int, size: int) -> list[Row]:
    """Rows for testing, additions and subtractions by turns, no pair of numbers twice.

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


def write_datasets(folder: Path, seed: int, train_size: int, test_size: int) -> None:
    """Write the three data sets below `folder`.

    Raises:
        UserError: a size is below 1 or more than there is.
    """
    for name, size in (("--train_size", train_size), ("--test_size", test_size)):
        if size < 1:
            raise UserError(f"{name} is {size}; it must be 1 or more")
    test = test_rows(seed, test_size)
    for name, additions in ADDITIONS.items():
        rows = train_rows(seed, additions)
        write_jsonl(folder / name / "train.jsonl", (next(rows) for _ in range(train_size)))
        write_jsonl(folder / name / "test.jsonl", test)


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.example.arithmetic",
        description="Write the embedded arithmetic task: three data sets (DIR/mostly_additions, "
        "DIR/mostly_subtractions, DIR/mixed) and a small untrained Llama with its tokenizer "
        "(DIR/model).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="fixes the data and the weights")
    parser.add_argument("--train_size", type=int, default=8000, help="rows of each train.jsonl")
    parser.add_argument("--test_size", type=int, default=300, help="rows of test.jsonl")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the task; returns the exit code."""
    args = build_parser().parse_args(argv)
    from dschat.example.arithmetic_model import write_model

    try:
        write_datasets(args.output_dir, args.seed, args.train_size, args.test_size)
        write_model(args.output_dir / "model", args.seed)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{args.train_size} + {args.test_size} rows in each of {', '.join(ADDITIONS)}, untrained "
        f"model in {args.output_dir / 'model'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
