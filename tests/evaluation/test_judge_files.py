"""The files of a judge: what a kill, a full disk or odd texts do to them, and a second start."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.evaluation.judging.judge import judge_pairs
from dschat.evaluation.judging.records import Records
from dschat.settings.judging import JudgeConfig
from judge_server import JudgeServer, completion, error, letter

Configured = Callable[..., JudgeConfig]
Serve = Callable[..., JudgeServer]


def lines(config: JudgeConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(str(config.output)).read_text().splitlines()]


def counts(figures: dict[str, Any]) -> list[int]:
    names = ("win", "tie", "lose", "tie_by_disagreement", "unparsable")
    return [figures["all"][name] for name in names]


def test_a_torn_line_is_judged_again(serve: Serve, configured: Configured) -> None:
    server = serve()
    config = configured("AB=A")
    judge_pairs(config)
    path = Path(str(config.output))
    whole = path.read_bytes()
    ends = [i + 1 for i, c in enumerate(whole) if c == ord("\n")]
    path.write_bytes(whole[: ends[1] + 25])
    del server.requests[:]
    assert counts(judge_pairs(config)) == [2, 1, 1, 0, 0]
    assert len(server.requests) == 2
    assert path.read_bytes() == whole


def test_overwriting_starts_anew_and_can_itself_be_stopped(
    serve: Serve, configured: Configured
) -> None:
    server = serve()
    judge_pairs(configured("AB="))
    server.answer = lambda body, n: (
        completion("E") if "number 0." in body["messages"][1]["content"] else error(401, "no")
    )
    again = configured("AB=", overwrite=True, concurrency=1, judge_model="gpt-4o")
    with pytest.raises(UserError, match="Finished judgments are kept"):
        judge_pairs(again)
    assert [row["winner"] for row in lines(again)] == ["Tie"]
    server.answer = lambda body, n: completion(letter(body))
    figures = judge_pairs(configured("AB=", judge_model="gpt-4o"))
    assert counts(figures) == [0, 2, 1, 0, 0]


def test_other_settings_and_other_pairs_are_refused(serve: Serve, configured: Configured) -> None:
    server = serve()
    config = configured("AB=")
    judge_pairs(config)
    with pytest.raises(UserError, match="judge 'gpt-4o-2024-05-13' then, 'gpt-4o' now"):
        judge_pairs(configured("AB=", judge_model="gpt-4o"))
    with pytest.raises(UserError, match="not among the 2 given"):
        judge_pairs(configured("AB=", num_sample=2))
    with pytest.raises(UserError, match="not among the 3 given"):
        judge_pairs(configured("ABA"))
    assert len(server.requests) == 3
    # More pairs than before are fine.
    assert counts(judge_pairs(configured("AB=A"))) == [2, 1, 1, 0, 0]
    assert len(server.requests) == 4


def test_a_file_without_winners_is_refused(serve: Serve, configured: Configured) -> None:
    serve()
    config = configured("AB")
    judge_pairs(config)
    rows = lines(config)
    for wrong in ({**rows[1], "winner": "a"}, {k: v for k, v in rows[1].items() if k != "winner"}):
        texts = [json.dumps(row) + "\n" for row in (rows[0], wrong)]
        Path(str(config.output)).write_text("".join(texts))
        with pytest.raises(UserError, match="the winner of line 2 is"):
            judge_pairs(config)


def test_every_comparison_has_a_summary_of_its_own(
    serve: Serve, configured: Configured, tmp_path: Path
) -> None:
    serve()
    config = configured("AAB")
    for name in ("1-v.s.-2", "1-v.s.-3", "1-v.s.-2.jsonl.old"):
        config.output = str(tmp_path / "out" / name)
        judge_pairs(config)
    assert len(list((tmp_path / "out").glob("*.summary.json"))) == 3
    config.output = str(tmp_path / "out" / "1-v.s.-4.jsonl")
    judge_pairs(config)
    assert (tmp_path / "out" / "1-v.s.-4.summary.json").is_file()


def test_odd_texts_empty_responses_and_missing_rewards(
    serve: Serve, configured: Configured, tmp_path: Path
) -> None:
    server = serve()
    config = configured("AAAA", concurrency=1)
    # Some of these end a line for str.splitlines, none of them does in JSON.
    odd = ["", "é 😀 \u2028\x85\x0b good", '"\\n</summary_a>', "\r\n\t good"]
    a = [{"prompt": f"\u2029 {i % 2}", "response": text} for i, text in enumerate(odd)]
    b = [{**row, "response": "", "reward": None} for row in a]
    for path, rows in ((config.model_name_a, a), (config.model_name_b, b)):
        Path(str(path)).write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = judge_pairs(config)
    assert counts(figures) == [2, 2, 0, 0, 0]
    whole = Path(str(config.output)).read_bytes()
    found = [json.loads(line) for line in whole.decode().split("\n")[:-1]]
    assert [row["A response"] for row in found] == odd
    assert {row["A reward"] for row in found} == {row["B reward"] for row in found} == {None}
    # The second half is lost in the midst of a character.
    cut = whole.index("😀".encode()) + 2
    Path(str(config.output)).write_bytes(whole[:cut])
    del server.requests[:]
    assert counts(judge_pairs(config)) == [2, 2, 0, 0, 0]
    assert len(server.requests) == 3
    assert Path(str(config.output)).read_bytes() == whole


@pytest.mark.parametrize("moment", ["before it is written", "while it is written"])
def test_ctrl_c_loses_and_doubles_no_answer(
    serve: Serve, configured: Configured, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    server = serve()
    config = configured("AB=A", concurrency=1)
    interrupts = [KeyboardInterrupt]

    def interrupt() -> None:
        while interrupts:
            raise interrupts.pop()

    class File(io.BufferedRandom):
        def write(self, data: Any) -> int:
            count = super().write(data)
            interrupt()  # as Python does it: once the call is done that the signal came in
            return count

    append = Records.append

    def append_later(self: Records, record: dict[str, Any]) -> None:
        interrupt()
        append(self, record)

    opened = lambda path, mode: File(io.FileIO(path, "a+"))  # noqa: E731
    with monkeypatch.context() as patch:
        if moment == "while it is written":
            patch.setattr("dschat.evaluation.judging.records.open", opened, raising=False)
        else:
            patch.setattr(Records, "append", append_later)
        with pytest.raises(UserError, match="Stopped. Finished judgments are kept"):
            judge_pairs(config)
    assert not interrupts
    found = sorted(row["line"] for row in lines(config))
    assert found == list(range(1, len(server.requests) + 1))
    assert counts(judge_pairs(config)) == [2, 1, 1, 0, 0]
    assert len(server.requests) == 4


def test_ctrl_c_while_a_hopeless_run_waits_for_its_questions(
    serve: Serve, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda body, n: error(401, "no") if n else completion(letter(body)))
    config = configured("AB")
    judge_pairs(config)
    Path(str(config.output)).write_text(Path(str(config.output)).read_text().split("\n")[0] + "\n")
    waits = []

    class Executor(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, **options: Any) -> None:
            super().shutdown(wait, **options)
            waits.append(wait)
            raise KeyboardInterrupt

    monkeypatch.setattr("dschat.evaluation.judging.judge.ThreadPoolExecutor", Executor)
    with pytest.raises(UserError, match="The server refuses: status 401"):
        judge_pairs(config)
    assert waits == [True]
    assert len(lines(config)) == 1
    assert len(server.requests) == 3


def test_a_full_disk_is_told(
    serve: Serve, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    config = configured("AB")

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = lambda path, mode: io.BufferedRandom(Full(path, "a+"))  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("dschat.evaluation.judging.records.open", opened, raising=False)
        with pytest.raises(UserError, match="The disk is full"):
            judge_pairs(config)
    assert counts(judge_pairs(config)) == [1, 0, 1, 0, 0]


def test_a_pair_that_stands_twice_is_judged_twice(serve: Serve, configured: Configured) -> None:
    server = serve()
    config = configured("A")
    for path in (config.model_name_a, config.model_name_b):
        Path(str(path)).write_text(Path(str(path)).read_text() * 2)
    assert counts(judge_pairs(config)) == [2, 0, 0, 0, 0]
    judge_pairs(config)
    assert len(server.requests) == 2
