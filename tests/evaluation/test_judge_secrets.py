"""The API key: in the request's header, and nowhere else."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.evaluation.judging.config import JudgeConfig
from dschat.evaluation.judging.judge import judge_pairs
from judge_server import KEY, JudgeServer, Reply, completion, error

Configured = Callable[..., JudgeConfig]
Serve = Callable[..., JudgeServer]


@pytest.fixture
def nowhere(
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Callable[[str, BaseException | None], None]]:
    """A check that a key is in no file, no output, no log and no exception."""
    with caplog.at_level(logging.DEBUG):

        def check(key: str, raised: BaseException | None) -> None:
            found = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
            found += [str(p) for p in tmp_path.rglob("*")]
            found += [*capfd.readouterr(), caplog.text]
            found += [str(r.__dict__) for r in caplog.records]
            if raised is not None:
                found += [repr(raised), "".join(traceback.format_exception(raised))]
            pieces = {key[i : i + 8] for i in range(len(key) - 7)}
            assert not [text[:200] for text in found if any(piece in text for piece in pieces)]

        yield check


@pytest.mark.parametrize("key", [KEY, "correcthorsebatterystaple"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_a_server_that_repeats_the_key(
    serve: Serve,
    configured: Configured,
    nowhere: Callable[[str, BaseException | None], None],
    status: int,
    key: str,
) -> None:
    told = f"Authorization: Bearer {key}; " + 30 * f"{key}, "  # cut somewhere, a part is left
    reply = completion(told) if status == 200 else error(status, told)
    server = serve(lambda body, n: reply)
    raised = None
    try:
        judge_pairs(configured("AB", sk=key, max_retries=1))
    except UserError as caught:
        raised = caught
    assert (raised is None) == (status == 200)
    assert server.authorizations == {f"Bearer {key}"}  # this is where it belongs
    nowhere(key, raised)


def test_a_malformed_reply_with_the_key(
    serve: Serve,
    configured: Configured,
    nowhere: Callable[[str, BaseException | None], None],
) -> None:
    serve(lambda body, n: Reply(body=f'{{"choices": "{KEY}"'))
    with pytest.raises(UserError) as caught:
        judge_pairs(configured("AB", max_retries=0))
    nowhere(KEY, caught.value)


def test_a_password_in_the_address_is_not_written(
    serve: Serve, configured: Configured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import os

    serve()
    address = os.environ["OPENAI_BASE_URL"].replace("http://", "http://me:hunter2@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    judge_pairs(configured("AB"))
    texts = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert any('"server": "127.0.0.1:' in text for text in texts)
    assert not any("hunter2" in text for text in texts)


def test_no_key(serve: Serve, configured: Configured) -> None:
    server = serve()
    with pytest.raises(UserError, match="There is no API key"):
        judge_pairs(configured("AB", sk=None))
    assert not server.requests


@pytest.mark.parametrize("address", ["localhost", "ftp://x/v1", "http://", "http://["])
def test_an_address_that_is_none(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    config: Any = configured("AB")
    with pytest.raises(UserError, match="OPENAI_BASE_URL is not an address"):
        judge_pairs(config)
