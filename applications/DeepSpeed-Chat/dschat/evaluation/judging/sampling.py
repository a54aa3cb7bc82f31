"""A sample of a file of responses that comes out the same for every model's file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dschat.evaluation.judging.pairs import category_of, occurrences, read_responses
from dschat.evaluation.judging.terminal import one_line
from dschat.runtime.files import write_jsonl
from dschat.settings.judging import SampleConfig


def draw_sample(
    rows: Sequence[dict[str, Any]],
    num_sample: int,
    seed: int,
    per_category: int | None = None,
) -> list[dict[str, Any]]:
    """`num_sample` rows without replacement, in random order.

    Rows are ranked by a hash of seed and prompt, not by their position. Files of several
    models with the same prompts thus give the same prompts, however their lines are ordered.

    Args:
        per_category: first keep at most this many rows of one subreddit (or other category). Rows
            without one are a category of their own.
    """
    counts = occurrences([row["prompt"] for row in rows])

    def rank(i: int) -> bytes:
        text = f"{seed}\n{counts[i]}\n{rows[i]['prompt']}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    ranked = [rows[i] for i in sorted(range(len(rows)), key=rank)]
    if per_category is not None:
        earlier = occurrences([category_of(row) for row in ranked])
        ranked = [row for row, n in zip(ranked, earlier, strict=True) if n < per_category]
    return ranked[:num_sample]


def sample_from_dataset(config: SampleConfig) -> list[dict[str, Any]]:
    """Write the sample; say how many lines it has and, for summaries, of which subreddits.

    Raises:
        UserError: the file cannot be used or the sample not be written.
    """
    rows = read_responses(str(config.filepath))
    by_subreddit = config.dataset == "summarize"
    sample = draw_sample(
        rows, config.num_sample, config.seed, config.per_subreddit if by_subreddit else None
    )
    write_jsonl(str(config.savepath), sample)
    print(f"Written: {config.savepath} ({len(sample)} of {len(rows)} lines)")
    if len(sample) < config.num_sample:
        why = "the file has no more"
        if by_subreddit and len(sample) < len(rows):
            why = f"at most {config.per_subreddit} of one subreddit (--per_subreddit)"
        print(f"Fewer than --num_sample {config.num_sample}: {why}.")
    if by_subreddit:
        found = Counter(one_line(category_of(row) or "(none)") for row in sample)
        print("Subreddits: " + ", ".join(f"{name} {n}" for name, n in found.most_common()))
    return sample
