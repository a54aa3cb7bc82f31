"""openai/summarize_from_feedback: two summaries of a post or an article, and which is better.

Source: Stiennon et al. 2020, arXiv 2009.01325. A raw row of its `comparisons`:
{"info": {"id", "post", "title", "subreddit", "site", "article"},
 "summaries": [{"text", "policy", "note"}, {...}], "choice": 0 or 1, ...}
with null `article` for posts and null `post` and `subreddit` for news articles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dschat.data.rows import Phase, RawRow, Row, RowError, distinct_pair, mapping, required, text
from dschat.data.schemas.base import Schema, has_columns


def _prompt(info: Mapping[str, Any]) -> str:
    if info.get("post") is None and info.get("article") is not None:
        return f"ARTICLE\n{text(info['article'], 'info.article')}\nTL;DR: "
    post = text(info.get("post"), "info.post")
    subreddit = info.get("subreddit")
    line = f"Subreddit: r/{subreddit}\n" if subreddit else ""
    return f"POST\n{line}{post}\nTL;DR: "


def _pair(raw: RawRow) -> tuple[str, str]:
    summaries = required(raw, "summaries")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise RowError("field 'summaries' does not hold two summaries")
    choice = required(raw, "choice")
    if choice not in (0, 1):
        raise RowError("field 'choice' is neither 0 nor 1")
    texts = [text(mapping(s, "summaries").get("text"), "summaries.text") for s in summaries]
    return texts[int(choice)], texts[1 - int(choice)]


def summaries_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row; in RL only the prompt, with the post's id and subreddit."""
    info = mapping(raw.get("info"), "info")
    prompt = _prompt(info)
    if phase == "rl":
        return [Row(prompt, example={name: info.get(name) for name in ("id", "subreddit")})]
    chosen, rejected = _pair(raw)
    row = Row(prompt, chosen, rejected)
    return [distinct_pair(row) if phase == "reward" else row]


SUMMARIES = Schema(
    name="summaries",
    columns="info (with post, subreddit or article), summaries (two, with text), choice",
    matches=has_columns("info", "summaries"),
    rows=summaries_rows,
)
