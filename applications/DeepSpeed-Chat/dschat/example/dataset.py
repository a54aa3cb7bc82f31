"""Writing the embedded example's preference data: train.jsonl and test.jsonl."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from dschat.errors import UserError
from dschat.example.posts import draw_post
from dschat.example.summaries import draw_pair

Row = dict[str, str]


def draw_rows(seed: int) -> Iterator[Row]:
    """An endless stream of rows {prompt, chosen, rejected}, no prompt twice, fixed by `seed`."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        post = draw_post(rng)
        chosen, rejected = draw_pair(post, rng)
        if post.prompt not in seen:
            seen.add(post.prompt)
            yield {"prompt": post.prompt, "chosen": chosen, "rejected": rejected}


def write_dataset(folder: Path, seed: int, train_size: int, test_size: int) -> None:
    """Write `folder`/train.jsonl and test.jsonl; the two share no prompt.

    The test rows come first in the stream, so that they are the same for every `train_size`.
    """
    for name, size in (("--train_size", train_size), ("--test_size", test_size)):
        if size < 1:
            raise UserError(f"{name} is {size}; it must be 1 or more")
    rows = draw_rows(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in (("test", test_size), ("train", train_size)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for _ in range(size):
                file.write(json.dumps(next(rows)) + "\n")
