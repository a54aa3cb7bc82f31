"""`python -m dschat.example --output_dir DIR`: write the embedded example's data and base model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dschat.errors import UserError, closed_pipe_ends_quietly


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.example",
        description="Write the embedded example: preference data on summaries (DIR/data), "
        "programming problems in the form of APPS (DIR/programs) and a small untrained Llama with "
        "its tokenizer (DIR/model).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="fixes the data and the weights")
    parser.add_argument("--train_size", type=int, default=20000, help="rows of train.jsonl")
    parser.add_argument("--test_size", type=int, default=500, help="rows of test.jsonl")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the example; returns the exit code."""
    args = build_parser().parse_args(argv)
    from dschat.example.dataset import write_dataset
    from dschat.example.model import write_model
    from dschat.example.programs import write_programs

    data, model = args.output_dir / "data", args.output_dir / "model"
    try:
        write_dataset(data, args.seed, args.train_size, args.test_size)
        write_programs(args.output_dir / "programs")
        write_model(model, args.seed)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.train_size} + {args.test_size} rows in {data}, untrained model in {model}")
    return 0


if __name__ == "__main__":
    with closed_pipe_ends_quietly():
        sys.exit(main())
