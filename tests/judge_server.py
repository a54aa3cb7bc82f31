"""An OpenAI-compatible server on loopback that judges by a rule, and misbehaves as it is told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "sk-test-0123456789abcdefSECRET"
SHOWN = re.compile(
    r"<(?:summary|reply)_([ab])(-[0-9a-f]{32})>\n(.*?)\n</(?:summary|reply)_\1\2>", re.DOTALL
)


@dataclass
class Reply:
    """What the server sends. `cut`: the connection ends amid the body."""

    status: int = 200
    body: str = ""
    seconds: float = 0.0
    cut: bool = False
    headers: dict[str, str] = field(default_factory=lambda: {"retry-after-ms": "5"})


def completion(text: str | None, finish_reason: str = "stop", **message: Any) -> Reply:
    """A chat completion."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text, **message},
    }
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return Reply(body=json.dumps(body))


def error(status: int, message: str, code: str | None = None) -> Reply:
    """An error as OpenAI words it."""
    return Reply(status, json.dumps({"error": {"message": message, "code": code, "type": "x"}}))


def shown(body: dict[str, Any]) -> tuple[str, str]:
    """The two responses of a question, in the order in which they are shown."""
    content = body["messages"][1]["content"]
    found = {letter: text for letter, _, text in SHOWN.findall(content)}
    return found["a"], found["b"]


def letter(body: dict[str, Any]) -> str:
    """A good response beats another one."""
    first, second = ("good" in text for text in shown(body))
    return "E" if first == second else ("A" if first else "B")


class JudgeServer:
    """`answer(body, n)` makes the reply to the n-th request (from 0) of a question."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply] | None = None) -> None:
        self.answer = answer or (lambda body, n: completion(letter(body)))
        self.requests: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        self.most_at_a_time = 0
        self._active = 0
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reply(self, body: dict[str, Any], authorization: str) -> Reply:
        with self._lock:
            self.requests.append(body)
            self.authorizations.add(authorization)
            self._active += 1
            self.most_at_a_time = max(self.most_at_a_time, self._active)
            question = body["messages"][1]["content"]
            n = self._counts[question]
            self._counts[question] += 1
        found = self.answer(body, n)
        time.sleep(found.seconds)
        with self._lock:
            self._active -= 1
        return found


@contextmanager
def serving(server: JudgeServer) -> Iterator[str]:
    """The server's address, as OPENAI_BASE_URL takes it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = server.reply(body, self.headers["authorization"])
            data = found.body.encode()
            try:
                self.send_response(found.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data) + (100 if found.cut else 0)))
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                return  # the client has given up on a slow reply

        def log_message(self, format: str, *args: Any) -> None:
            return

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_address[1]}/v1"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def write_responses(path: Path, rows: list[tuple[str, str, float]]) -> Path:
    """A file of lines {prompt, response, reward}."""
    names = ("prompt", "response", "reward")
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def post(i: int, subreddit: str = "AskReddit") -> str:
    """The prompt of a post."""
    return f"POST\nSubreddit: r/{subreddit}\nPost number {i}.\nTL;DR: "


def two_models(folder: Path, winners: str) -> tuple[Path, Path]:
    """Files of two models; for each letter of `winners` that model's response is the good one.

    "A", "B", or "=" for two that are equally good.
    """
    a = [(post(i), f" {'good' if w in 'A=' else 'bad'} one {i}", i) for i, w in enumerate(winners)]
    b = [(post(i), f" {'good' if w in 'B=' else 'bad'} two {i}", -i) for i, w in enumerate(winners)]
    return write_responses(folder / "a.jsonl", a), write_responses(folder / "b.jsonl", b)
