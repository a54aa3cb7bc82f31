"""The API key: in the request's header, and nowhere else."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.evaluation.judging.judge import judge_pairs
from dschat.settings.judging import JUDGE, JudgeConfig, redact
from judge_server import KEY, JudgeServer, Reply, completion, error, letter

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


@pytest.mark.parametrize("key", ["A", "B", "E", "choice", '"'])
@pytest.mark.parametrize("dataset", ["summarize", "hh-rlhf"])
def test_a_key_that_is_a_word_changes_no_verdict(
    serve: Serve, configured: Configured, tmp_path: Path, key: str, dataset: str
) -> None:
    """Where a server asks for no key, any word is given."""
    comment = "One of the choices is Better."

    def answer(body: dict[str, Any], n: int) -> Reply:
        choice = letter(body)
        told = json.dumps({"comparison": comment, "choice": choice})
        return completion(choice if dataset == "summarize" else told)

    serve(answer)
    config = configured("ABA=AB", sk=key, dataset=dataset)
    found = judge_pairs(config)["all"]
    assert (found["win"], found["tie"], found["lose"]) == (3, 1, 2)
    # In the midst of words it is no key.
    rows = Path(str(config.output)).read_text().splitlines()
    assert dataset == "summarize" or all(comment in row for row in rows)


def test_short_keys_are_removed_where_they_stand_alone() -> None:
    assert redact("your key none (none!) is nonesuch", "none") == (
        "your key [key] ([key]!) is nonesuch"
    )
    assert redact("xlongenoughx", "longenough") == "x[key]x"


@pytest.mark.parametrize("name", ["--timeout", "--dataset", "--yes"])
def test_a_key_in_the_place_of_another_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "correcthorsebatterystaple")
    for key in (KEY, "correcthorsebatterystaple"):
        with pytest.raises(SystemExit) as caught:
            JUDGE.parse([name, key])
        assert caught.value.code == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"error: {name}: ")
        assert "[key]" in told.err
        assert key not in told.err + told.out


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
