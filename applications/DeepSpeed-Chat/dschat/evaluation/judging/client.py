"""The judge behind an OpenAI-compatible server: one question, one verdict, and what they cost."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dschat.errors import UserError
from dschat.evaluation.judging.instructions import Verdict, read_answer
from dschat.settings.judging import checked_key, redact

# The next question would be answered in the same way: a bad key, no right to it, no such model.
HOPELESS_STATUS = {401, 403, 404}
MALFORMED_PAUSE_SECONDS = 0.5
LONGEST_MESSAGE = 300
OPENAI_ADDRESS = "https://api.openai.com/v1"


class NoAnswer(Exception):  # noqa: N818  (it is an outcome, not a fault of the program)
    """This question got no answer, after all tries. The message holds no key."""


@dataclass(frozen=True)
class JudgeSettings:
    """What is sent with each question. A negative temperature is not sent."""

    model: str
    dataset: str
    temperature: float
    max_tokens: int
    max_retries: int
    timeout: float


def _server_address() -> str:
    # openai itself takes a variable that is set to nothing for an address.
    return os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_ADDRESS


def server_name() -> str | None:
    """Host and port of OPENAI_BASE_URL, without the password it may hold; None: OpenAI itself."""
    url = _server_address()
    if url == OPENAI_ADDRESS:
        return None
    try:
        parts = urlsplit(url)
        name = parts.netloc.rsplit("@", 1)[-1]
    except ValueError:
        parts, name = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not name:
        raise UserError(
            "OPENAI_BASE_URL is not an address: expected http://host:port/v1 or https://..."
        )
    return name


class JudgeClient:
    """Asks questions; safe to call from several threads.

    Raises:
        UserError: no usable key.
    """

    def __init__(self, key: str | None, settings: JudgeSettings) -> None:
        from openai import OpenAI

        self._key = checked_key(key)
        self.settings = settings
        self._client = OpenAI(
            api_key=self._key,
            base_url=_server_address(),
            max_retries=settings.max_retries,
            timeout=settings.timeout,
        )

    def __repr__(self) -> str:
        return f"JudgeClient({self.settings.model})"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: list[dict[str, str]]) -> Verdict:
        """The verdict on one question; 429, 5xx, broken and slow connections are tried again.

        Raises:
            NoAnswer: none of the tries brought an answer.
            UserError: no question will (the key is refused, the model is unknown, no credit).
        """
        import openai

        for tries_left in reversed(range(self.settings.max_retries + 1)):
            try:
                return self._verdict(self._send(messages))
            except openai.APIStatusError as error:
                message = f"status {error.status_code}: {self._shown(error.message)}"
                if _is_hopeless(error):
                    raise UserError(
                        f"The server refuses: {message}. Check the key, --judge_model "
                        f"{self.settings.model} and OPENAI_BASE_URL. Finished judgments are kept."
                    ) from None
                raise NoAnswer(message) from None
            except openai.APIConnectionError as error:
                cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
                raise NoAnswer(self._shown(error) + cause) from None
            except Exception as error:
                # A reply of status 200 that is no chat completion. openai does not try it again.
                if tries_left == 0:
                    kind = type(error).__name__
                    raise NoAnswer(f"malformed reply, {kind}: {self._shown(error)}") from None
                time.sleep(MALFORMED_PAUSE_SECONDS)
        raise AssertionError("unreachable")

    def _shown(self, error: object) -> str:
        """The start of an error's text. A cut before the key is removed could leave half of it."""
        return redact(str(error), self._key)[:LONGEST_MESSAGE]

    def _send(self, messages: list[dict[str, str]]) -> Any:
        options: dict[str, Any] = {}
        if self.settings.temperature >= 0:
            options["temperature"] = self.settings.temperature
        return self._client.chat.completions.create(
            model=self.settings.model,
            messages=messages,  # type: ignore[arg-type]
            max_completion_tokens=self.settings.max_tokens,
            **options,
        )

    def _verdict(self, completion: Any) -> Verdict:
        choice = completion.choices[0]
        text = choice.message.content
        refusal = getattr(choice.message, "refusal", None)
        if text is None and not refusal:
            raise ValueError("a choice without content")
        # The cut of a token limit can leave half a character, which no file can hold.
        text = str(text or refusal).encode("utf-8", "replace").decode("utf-8")
        if refusal and not choice.message.content:
            verdict = Verdict(None, f"unparsable, the judge refuses: {text}")
        elif choice.finish_reason == "length":
            verdict = Verdict(None, f"unparsable, cut at --judge_max_tokens: {text}")
        else:
            verdict = read_answer(self.settings.dataset, text)
        # A server may repeat the key in an answer, which is written to a file. What was chosen is
        # read first: for a server that asks for no key the key is any word, and "A" is one.
        return Verdict(verdict.choice, redact(verdict.comment, self._key))


def _is_hopeless(error: Any) -> bool:
    return error.status_code in HOPELESS_STATUS or error.code == "insufficient_quota"


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
