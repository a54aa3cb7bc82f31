"""What the tests of judging share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dschat.settings.judging import JudgeConfig
from judge_server import KEY, JudgeServer, serving, two_models


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., JudgeServer]]:
    """Start a server that OPENAI_BASE_URL then names; pauses before retries are short."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("dschat.evaluation.judging.client.MALFORMED_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ExitStack() as stack:

        def start(*args: Any) -> JudgeServer:
            server = JudgeServer(*args)
            monkeypatch.setenv("OPENAI_BASE_URL", stack.enter_context(serving(server)))
            return server

        yield start


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., JudgeConfig]:
    """Settings for two models of `two_models`, with changes."""

    def make(winners: str, **changes: Any) -> JudgeConfig:
        a, b = two_models(tmp_path, winners)
        values: dict[str, Any] = {
            "sk": KEY,
            "model_name_a": str(a),
            "model_name_b": str(b),
            "dataset": "summarize",
            "output": str(tmp_path / "out" / "judged.jsonl"),
            "yes": True,
            **changes,
        }
        config = JudgeConfig(**values)
        config.validate()
        return config

    return make
