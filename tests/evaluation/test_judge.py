"""The judge on a server of its own: what it writes, and what it does when the server fails."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.evaluation.judging.client import JudgeClient
from dschat.evaluation.judging.judge import _sent, judge_pairs
from dschat.settings.judging import JudgeConfig
from judge_server import KEY, JudgeServer, Reply, completion, error, letter, shown
from pseudo_terminal import Person, at_a_terminal

Configured = Callable[..., JudgeConfig]
Serve = Callable[..., JudgeServer]


def lines(config: JudgeConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(str(config.output)).read_text().splitlines()]


def counts(figures: dict[str, Any]) -> list[int]:
    names = ("win", "tie", "lose", "tie_by_disagreement", "unparsable")
    return [figures["all"][name] for name in names]


def test_summaries(serve: Serve, configured: Configured, capsys: pytest.CaptureFixture) -> None:
    server = serve()
    config = configured("AAB=AAAAAB=A")
    figures = judge_pairs(config)
    assert counts(figures) == [8, 2, 2, 0, 0]
    rows = lines(config)
    assert [r["winner"] for r in rows] == ["Tie" if w == "=" else w for w in "AAB=AAAAAB=A"]
    assert rows[1] == {
        "prompt": "POST\nSubreddit: r/AskReddit\nPost number 1.\nTL;DR: ",
        "A response": " good one 1",
        "B response": " bad two 1",
        "A reward": 1,
        "B reward": -1,
        "winner": "A",
        "comment": "",
        "outcome": "judged",
        "category": "r/AskReddit",
        "line": 2,
        "answers": [{"first": rows[1]["answers"][0]["first"], "choice": "A"}],
    }
    # Each pair was asked for once, in an order by chance, and as the published settings say.
    assert len(server.requests) == 12
    assert {r["model"] for r in server.requests} == {"gpt-4o-2024-05-13"}
    firsts = [row["answers"][0]["first"] for row in rows]
    assert set(firsts) == {"A", "B"}
    by_post = {r["messages"][1]["content"].split("number ")[1][:2]: r for r in server.requests}
    for i, first in enumerate(firsts):
        assert ("one" in shown(by_post[f"{i}."[:2]])[0]) == (first == "A")
    # 8 of 10: p = 2 (1 + 10 + 45) / 1024. The interval of 8 of 12 is scipy's.
    assert figures["all"]["sign_test_p"] == pytest.approx(0.109375)
    assert figures["all"]["intervals_95"]["win"] == pytest.approx((0.3906, 0.8619), abs=1e-4)
    assert "8: 66.7% [39.1%, 86.2%]" in capsys.readouterr().out


def test_dialogues(serve: Serve, configured: Configured) -> None:
    def answer(body: dict[str, Any], n: int) -> Reply:
        assert "helpful" in body["messages"][0]["content"]
        return completion(json.dumps({"comparison": "B rambles.", "choice": letter(body)}))

    serve(answer)
    config = configured("AB" * 4, dataset="hh-rlhf")
    assert counts(judge_pairs(config)) == [4, 0, 4, 0, 0]
    remark = "(shown to the judge swapped, B as A) "
    for row in lines(config):
        swapped = row["answers"][0]["first"] == "B"
        assert row["comment"] == (remark if swapped else "") + "B rambles."


PATIENCE = 1.5
"""Seconds to wait for a slow server; a server that is not answers within it on any machine."""

TROUBLE = {
    "429": error(429, "slow down"),
    "500": error(500, "oops"),
    "slow": Reply(body="{}", seconds=2 * PATIENCE),
    "cut": Reply(body='{"id": "x", "choi', cut=True),
    "not JSON": Reply(body='{"id": "x", "choi'),
    "no choices": Reply(body='{"id": "x", "object": "chat.completion", "choices": []}'),
    "no content": completion(None),
    "empty": Reply(body=""),
    "a list": Reply(body="[1, 2]"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_is_tried_again(serve: Serve, configured: Configured, trouble: str) -> None:
    server = serve(lambda body, n: TROUBLE[trouble] if n == 0 else completion(letter(body)))
    figures = judge_pairs(configured("AB=", timeout=PATIENCE if trouble == "slow" else 60))
    assert counts(figures) == [1, 1, 1, 0, 0]
    assert len(server.requests) == 6


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_pair_without_an_answer_is_no_judgment(
    serve: Serve, configured: Configured, trouble: str
) -> None:
    def answer(body: dict[str, Any], n: int) -> Reply:
        lost = "number 1." in body["messages"][1]["content"]
        return TROUBLE[trouble] if lost else completion(letter(body))

    server = serve(answer)
    config = configured("AAA", max_retries=1, timeout=PATIENCE if trouble == "slow" else 60)
    with pytest.raises(UserError, match="1 of 3 pairs got no answer"):
        judge_pairs(config)
    assert [row["line"] for row in lines(config)] == [1, 3]
    assert len(server.requests) == 2 + 2
    # A second start asks for the missing one only.
    server.answer = lambda body, n: completion(letter(body))
    assert counts(judge_pairs(config)) == [3, 0, 0, 0, 0]
    assert [row["line"] for row in lines(config)] == [1, 2, 3]
    assert len(server.requests) == 2 + 2 + 1


UNREADABLE = {
    "words": completion("Summary A is better."),
    "lower case": completion("a"),
    "another letter": completion("C"),
    "nothing": completion(""),
    "length": completion("A", "length"),
    "refusal": completion(None, refusal="No."),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_answer_is_no_tie(serve: Serve, configured: Configured, kind: str) -> None:
    server = serve(lambda body, n: UNREADABLE[kind])
    config = configured("AA")
    figures = judge_pairs(config)
    assert counts(figures) == [0, 0, 0, 0, 2]
    assert figures["all"]["shares"] is None
    for row in lines(config):
        assert row["winner"] is None
        assert row["outcome"] == "unparsable"
        assert (
            row["comment"]
            .removeprefix("(shown to the judge swapped, B as A) ")
            .startswith("unparsable")
        )
    # It is a judgment that was paid for: it is not asked for again.
    judge_pairs(config)
    assert len(server.requests) == 2


def test_both_orders(serve: Serve, configured: Configured) -> None:
    server = serve()
    assert counts(judge_pairs(configured("AAB=", both_orders=True))) == [2, 1, 1, 0, 0]
    assert len(server.requests) == 8
    # A judge who looks at the place only contradicts itself on every pair.
    server.answer = lambda body, n: completion("A")
    config = configured("AAB=", both_orders=True, overwrite=True)
    figures = judge_pairs(config)
    assert counts(figures) == [0, 4, 0, 4, 0]
    assert figures["first_shown"] == {"chosen": 8, "answers": 8}
    assert {row["outcome"] for row in lines(config)} == {"disagreement"}
    assert sorted(a["choice"] for a in lines(config)[0]["answers"]) == ["A", "B"]
    # A choice in one order and a tie in the other do not agree either.
    server.answer = lambda body, n: completion("A" if "one" in shown(body)[0] else "E")
    config = configured("AAB=", both_orders=True, overwrite=True)
    assert counts(judge_pairs(config)) == [0, 4, 0, 4, 0]
    # One answer that cannot be read makes the pair unparsable.
    server.answer = lambda body, n: completion("A" if "one" in shown(body)[0] else "?")
    assert counts(judge_pairs(config)) == [0, 0, 0, 0, 4]


def test_concurrency(serve: Serve, configured: Configured) -> None:
    together = threading.Barrier(3)

    def answer(body: dict[str, Any], n: int) -> Reply:
        together.wait(60)  # two other questions are under way at the same time
        return completion(letter(body))

    server = serve(answer)
    assert counts(judge_pairs(configured("A" * 9, concurrency=3))) == [9, 0, 0, 0, 0]
    assert server.most_at_a_time == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "Incorrect API key provided"), "status 401"),
        (error(403, "no"), "status 403"),
        (error(404, "no such model"), "no such model"),
        (error(429, "You exceeded your quota", "insufficient_quota"), "quota"),
    ],
)
def test_hopeless_errors_stop_the_run(
    serve: Serve, configured: Configured, reply: Reply, message: str
) -> None:
    server = serve(lambda body, n: reply)
    with pytest.raises(UserError, match=message):
        judge_pairs(configured("A" * 30, concurrency=2, max_retries=0))
    assert len(server.requests) <= 4


def test_a_server_that_is_away(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError, match=r"8 questions in a row .*Connection error"):
        judge_pairs(configured("A" * 50, max_retries=0))


@pytest.mark.parametrize("typed", ["n\n", "\n", "\x04"])
def test_the_cost_is_told_before_anything_is_asked_or_lost(
    serve: Serve, configured: Configured, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    server = serve()
    config = configured("AB")
    judge_pairs(config)
    before = Path(str(config.output)).read_bytes()
    config.yes, config.overwrite = False, True

    def answers(keys: str) -> Callable[[Person], None]:
        def act(person: Person) -> None:
            assert "2 requests to gpt-4o-2024-05-13: about" in person.read_until("Start? [y/N] ")
            person.press(keys)

        return act

    with (
        at_a_terminal(monkeypatch, answers(typed)),
        pytest.raises(UserError, match="Not started, as answered"),
    ):
        judge_pairs(config)
    assert len(server.requests) == 2
    assert Path(str(config.output)).read_bytes() == before
    with at_a_terminal(monkeypatch, answers("y\n")):
        judge_pairs(config)
    assert len(server.requests) == 4


@pytest.mark.parametrize("stdin", [io.StringIO("y\n"), io.StringIO(""), None])
def test_without_a_terminal_nothing_starts_unasked(
    serve: Serve, configured: Configured, monkeypatch: pytest.MonkeyPatch, stdin: Any
) -> None:
    server = serve()
    config = configured("AB", yes=False)
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(UserError, match="the standard input is no terminal. Add --yes"):
        judge_pairs(config)
    assert not server.requests
    assert not Path(str(config.output)).exists()


def test_an_address_set_to_nothing_is_openai(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", " ")
    client = JudgeClient(KEY, _sent(configured("A")))
    assert str(client._client.base_url).rstrip("/") == "https://api.openai.com/v1"
    client.close()
