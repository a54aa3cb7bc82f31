"""Judging by hand, through a pseudo-terminal: the keys, and what the person can see."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.evaluation.judging.human import judge_by_hand
from dschat.settings.judging import HumanConfig
from judge_server import two_models, write_responses
from launch import ROOT
from pseudo_terminal import SECONDS, Person, at_a_terminal, start_at_a_terminal

READY = "q: stop] "
RESPONSE = re.compile(r"-+ Response ([12]) -+\n(.*?)\n(?=-)", re.DOTALL)


def better(screen: str) -> str:
    """The key of the better response."""
    found = dict(RESPONSE.findall(screen))
    good = ["good" in found["1"], "good" in found["2"]]
    return "t" if good[0] == good[1] else ("1" if good[0] else "2")


def configured(folder: Path, winners: str, **changes: Any) -> HumanConfig:
    a, b = two_models(folder, winners)
    config = HumanConfig(str(a), str(b), "summarize", str(folder / "out.jsonl"), **changes)
    config.validate()
    return config


def lines(config: HumanConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(str(config.output)).read_text().splitlines()]


def test_choices_are_of_models_and_nothing_tells_them_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = configured(tmp_path, "AABB=ABA")
    before: list[str] = []
    one_first: list[bool] = []

    def act(person: Person) -> None:
        for _ in range(8):
            screen = person.read_until(READY)
            before.append(screen)
            one_first.append("one" in dict(RESPONSE.findall(screen))["1"])
            person.press(better(screen))
        person.read_until("Written")

    with at_a_terminal(monkeypatch, act):
        figures = judge_by_hand(config)
    assert figures is not None
    found = figures["all"]
    assert (found["win"], found["tie"], found["lose"]) == (4, 1, 3)
    rows = lines(config)
    assert [r["winner"] for r in rows] == ["A", "A", "B", "B", "Tie", "A", "B", "A"]
    assert [r["A reward"] for r in rows] == list(range(8))
    # Blind: either model comes first, and the screen holds the texts and the question alone.
    assert set(one_first) == {True, False}
    assert one_first == [r["answers"][0]["first"] == "A" for r in rows]
    for i, screen in enumerate(before):
        for text in (
            f" {i + 1} of 8 ",
            f"| POST\n| Subreddit: r/AskReddit\n| Post number {i}.\n| TL;DR:",
            f"| {rows[i]['A response'].strip()}\n",
            f"| {rows[i]['B response'].strip()}\n",
            "Which is the better summary?",
            "[1, 2, t: neither, c: comment, u: undo the last one, q: stop]",
            *("Prompt", "Response 1", "Response 2"),
        ):
            assert text in screen
            screen = screen.replace(text, "", 1)
        # What is left is the key that was typed before, and rules.
        assert re.fullmatch(r"[12t]?[\s=-]*", screen), screen


def test_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = configured(tmp_path, "AB")

    def act(person: Person) -> None:
        person.read_until(READY)
        person.press("u")
        assert "Nothing is judged yet" in person.read_until(READY)
        person.press("x")
        assert "No such key" in person.read_until(READY)
        person.press("\x1b")
        assert "No such key" in person.read_until(READY)
        person.press("c")
        person.read_until("Comment: ")
        person.press("short é\n")
        person.read_until(READY)
        person.press("T")
        assert " 2 of 2 " in person.read_until(READY)
        person.press("u")  # the tie was a slip
        screen = person.read_until(READY)
        assert " 1 of 2 " in screen
        person.press(better(screen))
        screen = person.read_until(READY)
        person.press("c")
        person.read_until("Comment: ")
        person.press("\n")
        person.read_until(READY)
        person.press(better(screen))
        person.read_until("Written")

    with at_a_terminal(monkeypatch, act):
        judge_by_hand(config)
    assert [(r["winner"], r["comment"]) for r in lines(config)] == [("A", ""), ("B", "")]


def test_a_comment_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = configured(tmp_path, "A")

    def act(person: Person) -> None:
        screen = person.read_until(READY)
        person.press("c")
        person.read_until("Comment: ")
        person.press("short é\n")
        person.read_until(READY)
        person.press(better(screen))
        person.read_until("Written")

    with at_a_terminal(monkeypatch, act):
        judge_by_hand(config)
    assert [(r["winner"], r["comment"]) for r in lines(config)] == [("A", "short é")]


def test_keys_pressed_ahead_do_not_judge_what_was_not_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = configured(tmp_path, "AAA")

    def act(person: Person) -> None:
        person.read_until(READY)
        person.press("1111")
        assert " 2 of 3 " in person.read_until(READY)
        person.press("q")
        person.read_until("Stopped: 1 of 3")

    with at_a_terminal(monkeypatch, act):
        assert judge_by_hand(config) is None
    assert len(lines(config)) == 1


@pytest.mark.parametrize("stop", ["q", "\x04"])
def test_stop_and_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: str) -> None:
    config = configured(tmp_path, "ABAB")

    def act_until(keys: int, end: str) -> Callable[[Person], None]:
        def act(person: Person) -> None:
            for _ in range(keys):
                person.press(better(person.read_until(READY)))
            if end == "Stopped":
                person.read_until(READY)
                person.press(stop)
            shown = person.read_until(end)
            # No score before the end: it could sway the rest.
            assert end != "Stopped" or "wins" not in shown

        return act

    with at_a_terminal(monkeypatch, act_until(2, "Stopped")):
        assert judge_by_hand(config) is None
    assert [r["winner"] for r in lines(config)] == ["A", "B"]
    with open(str(config.output), "a") as file:
        file.write('{"prompt": "torn')
    with at_a_terminal(monkeypatch, act_until(2, "Written")):
        assert judge_by_hand(config) is not None
    assert [r["winner"] for r in lines(config)] == ["A", "B", "A", "B"]
    # All is judged: only the table is shown again.
    with at_a_terminal(monkeypatch, act_until(0, "Written")):
        assert judge_by_hand(config) is not None


def test_a_response_cannot_command_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = configured(tmp_path, "A")
    write_responses(
        Path(str(config.model_a)),
        [("POST\nSubreddit: r/AskReddit\nPost number 0.\nTL;DR: ", "\x1b[2J\x1b]0;x\x07", 0.0)],
    )

    def act(person: Person) -> None:
        person.read_until(READY)
        person.press("1")
        person.read_until("Written")
        assert "\x1b" not in person.seen
        assert "\x07" not in person.seen
        assert "[2J" in person.seen

    with at_a_terminal(monkeypatch, act):
        judge_by_hand(config)


def test_an_empty_response_is_shown_as_such(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = configured(tmp_path, "A")
    post = json.loads(Path(str(config.model_a)).read_text())["prompt"]
    write_responses(Path(str(config.model_b)), [(post, " \n", 0.0)])

    def act(person: Person) -> None:
        screen = person.read_until(READY)
        assert sorted(dict(RESPONSE.findall(screen)).values()) == ["(empty)", "| good one 0"]
        person.press("1" if "(empty)" in dict(RESPONSE.findall(screen))["2"] else "2")
        person.read_until("Written")

    with at_a_terminal(monkeypatch, act):
        judge_by_hand(config)
    assert [(r["winner"], r["B response"]) for r in lines(config)] == [("A", " \n")]


@pytest.mark.slow
def test_the_script_stops_at_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    a, b = two_models(tmp_path, "AB=")
    arguments = ["--model_a", a, "--model_b", b, "--dataset", "summarize"]
    arguments += ["--output", tmp_path / "out.jsonl"]
    for keys, end in ((1, "Stopped: 1 of 3"), (2, "Written")):
        process, person = start_at_a_terminal(ROOT / "evaluation" / "human-eval.py", arguments)
        try:
            for _ in range(keys):
                person.press(better(person.read_until(READY)))
            if end != "Written":
                person.read_until(READY)
                person.press("\x03")
            person.read_until(end)
            assert process.wait(SECONDS) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            os.close(person.terminal)
        assert "Traceback" not in person.seen
    winners = [json.loads(x)["winner"] for x in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert winners == ["A", "B", "Tie"]
