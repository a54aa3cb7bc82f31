"""What a run of the judge will cost, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
# A letter; a sentence in a JSON object.
ANSWER_TOKENS = {"summarize": 2, "hh-rlhf": 80}


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens at api.openai.com, and when that was so."""

    input: float
    output: float
    as_of: str


PRICES = {
    "gpt-4o-2024-05-13": Price(5.00, 15.00, "2024-05"),
    "gpt-4o-2024-08-06": Price(2.50, 10.00, "2026-04"),
    "gpt-4o": Price(2.50, 10.00, "2026-04"),
    "gpt-4o-mini": Price(0.15, 0.60, "2026-04"),
    "gpt-4.1": Price(2.00, 8.00, "2026-04"),
    "gpt-4.1-mini": Price(0.40, 1.60, "2026-04"),
    "gpt-4.1-nano": Price(0.10, 0.40, "2026-04"),
}


def estimate_cost(
    chats: Sequence[Sequence[dict[str, str]]], dataset: str, model: str, own_server: bool
) -> str:
    """One line: requests, tokens (characters / 4) and, for a known model of OpenAI, dollars.

    Args:
        chats: the messages of each request.
        own_server: the requests go elsewhere than to OpenAI, whose prices do not count there.
    """
    tokens_in = sum(
        TOKENS_PER_MESSAGE + len(message["content"]) / CHARACTERS_PER_TOKEN
        for chat in chats
        for message in chat
    )
    tokens_out = len(chats) * ANSWER_TOKENS[dataset]
    text = (
        f"{len(chats)} requests to {model}: about {tokens_in:,.0f} tokens in (characters / "
        f"{CHARACTERS_PER_TOKEN}) and {tokens_out:,} out"
    )
    price = PRICES.get(model)
    if own_server:
        return f"{text}. Price: the server's own."
    if price is None:
        return f"{text}. Price: not known here for this model."
    dollars = (tokens_in * price.input + tokens_out * price.output) / 1e6
    return (
        f"{text}, about ${dollars:.2f} at ${price.input:.2f} / ${price.output:.2f} a million "
        f"(prices of {price.as_of}; retries come on top)."
    )
