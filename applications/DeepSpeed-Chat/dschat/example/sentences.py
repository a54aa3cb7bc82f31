"""The sentence task for a pretrained chat model: write one sentence that contains a given word.

    python -m dschat.example.sentences --output_dir DIR

DIR/train.jsonl and DIR/test.jsonl hold chat prompts (`messages`) and their `word`; no word is in
both. `sentence_check` says whether a response is right, so that no reward model is needed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dschat.errors import UserError
from dschat.example.sentence_words import split_words
from dschat.runtime.files import write_jsonl

INSTRUCTION = 'Write one sentence that contains the word "{word}".'


def make_row(word: str) -> dict[str, Any]:
    """A data row: the prompt's one message, and the word for the check."""
    content = INSTRUCTION.format(word=word)
    return {"messages": [{"role": "user", "content": content}], "word": word}


def train_rows(seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of rows: all training words, shuffled anew each time round."""
    words = split_words()[0]
    rng = random.Random(f"{seed} train")
    while True:
        rng.shuffle(words)
        yield from map(make_row, words)


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.example.sentences",
        description="Write prompts that ask for one sentence with a given word.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="fixes the order of the words")
    parser.add_argument("--train_size", type=int, default=256, help="rows of train.jsonl")
    parser.add_argument("--test_size", type=int, default=200, help="rows of test.jsonl")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the data; returns the exit code."""
    args = build_parser().parse_args(argv)
    held_out = split_words()[1]
    try:
        if args.train_size < 1 or not 1 <= args.test_size <= len(held_out):
            raise UserError(
                f"--train_size {args.train_size}, --test_size {args.test_size}: expected 1 or "
                f"more, and at most the {len(held_out)} held-out words to test with"
            )
        rows = train_rows(args.seed)
        write_jsonl(args.output_dir / "train.jsonl", (next(rows) for _ in range(args.train_size)))
        write_jsonl(args.output_dir / "test.jsonl", map(make_row, held_out[: args.test_size]))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.train_size} prompts to train on, {args.test_size} with other words to test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
