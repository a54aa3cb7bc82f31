"""The scripts, as users start them: the published commands with other file names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from judge_server import (
    KEY,
    JudgeServer,
    Reply,
    completion,
    letter,
    post,
    serving,
    write_responses,
)
from launch import ROOT, environment, run_script
from pseudo_terminal import SECONDS, Person, start_at_a_terminal

SCRIPTS = {
    name: ROOT / "evaluation" / name
    for name in ("tools/sample_from_dataset.py", "gpt4-eval.py", "human-eval.py")
}


def start_judge(arguments: list[str], url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # A test run in the background hands on that Ctrl-C is ignored.
        [sys.executable, str(SCRIPTS["gpt4-eval.py"]), *arguments],
        env=environment(OPENAI_BASE_URL=url, NO_PROXY="127.0.0.1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def start_judge_at_a_terminal(
    arguments: list[str], url: str
) -> tuple[subprocess.Popen[bytes], Person]:
    variables = {"OPENAI_BASE_URL": url, "NO_PROXY": "127.0.0.1"}
    return start_at_a_terminal(SCRIPTS["gpt4-eval.py"], arguments, **variables)


@pytest.mark.slow
def test_the_published_commands(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "summarize" / "temperature=0.8"
    folder.mkdir(parents=True)
    for name, word in (("ppo_step-100", "bad"), ("wpr_step-100", "good")):
        rows = [(post(i, f"sub{i % 12}"), f"{word} {i}", 0.5) for i in range(150)]
        write_responses(folder / f"{name}.jsonl", rows)
        done = run_script(
            SCRIPTS["tools/sample_from_dataset.py"],
            [
                *("--filepath", folder / f"{name}.jsonl"),
                *("--savepath", folder / f"{name}-sampled.jsonl"),
                *("--dataset", "summarize"),
            ],
        )
        assert done.returncode == 0, done.stderr
        assert "50 of 150 lines" in done.stdout
    output = folder / "wpr_step-100-v.s.-ppo_step-100.jsonl"
    arguments = ["--sk", KEY]
    arguments += ["--model_name_a", str(folder / "wpr_step-100-sampled.jsonl")]
    arguments += ["--model_name_b", str(folder / "ppo_step-100-sampled.jsonl")]
    arguments += ["--dataset", "summarize", "--output", str(output)]
    server = JudgeServer()
    with serving(server) as url:
        for typed, code in (("\x03", 1), ("y\n", 0)):
            process, person = start_judge_at_a_terminal(arguments, url)
            person.read_until("Start? [y/N] ")
            assert not server.requests
            person.press(typed)
            person.read_until("error: Not started" if code else "Written: ")
            assert process.wait(SECONDS) == code
            os.close(person.terminal)
            out = person.seen
            assert "Traceback" not in out
    assert "50: 100.0% [92.9%, 100.0%]" in out
    assert "1.78e-15" in out  # 2 / 2^50
    assert "r/sub" in out
    assert len(output.read_text().splitlines()) == 50
    found = [p.read_text() for p in folder.iterdir()] + [out]
    assert not any(KEY in text for text in found)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_judged(tmp_path: Path) -> None:
    rows = [(post(i), f"good {i}", 0.0) for i in range(40)]
    a, b = (write_responses(tmp_path / name, rows) for name in ("a.jsonl", "b.jsonl"))
    output = tmp_path / "out.jsonl"

    def answer(body: dict[str, Any], n: int) -> Reply:
        reply = completion(letter(body))
        reply.seconds = 0.1
        return reply

    server = JudgeServer(answer)
    arguments = ["--sk", KEY, "--model_name_a", str(a), "--model_name_b", str(b), "--yes"]
    arguments += ["--dataset", "summarize", "--output", str(output), "--concurrency", "2"]
    with serving(server) as url:
        process = start_judge(arguments, url)
        deadline = time.monotonic() + SECONDS
        while len(server.requests) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert "error: Stopped. Finished judgments are kept" in err
        assert "Traceback" not in err
        asked = len(server.requests)
        assert asked < 40
        # No answer that was paid for is lost.
        assert len(output.read_text().splitlines()) == asked
        done = start_judge(arguments, url).communicate(timeout=SECONDS)
    assert f"{asked} of 40 pairs are judged already" in done[0]
    assert len(server.requests) == 40
    assert [json.loads(x)["line"] for x in output.read_text().splitlines()] == list(range(1, 41))


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    """Finished judgments are kept all the same; only the questions under way are lost."""
    rows = [(post(i), f"good {i}", 0.0) for i in range(9)]
    a, b = (write_responses(tmp_path / name, rows) for name in ("a.jsonl", "b.jsonl"))
    output = tmp_path / "out.jsonl"
    release = threading.Event()

    def answer(body: dict[str, Any], n: int) -> Reply:
        if "number 0." not in body["messages"][1]["content"]:
            release.wait(SECONDS * 3)
        return completion(letter(body))

    server = JudgeServer(answer)
    arguments = ["--sk", KEY, "--model_name_a", str(a), "--model_name_b", str(b), "--yes"]
    arguments += ["--dataset", "summarize", "--output", str(output), "--concurrency", "2"]
    with serving(server) as url:
        process, person = start_judge_at_a_terminal(arguments, url)
        try:
            deadline = time.monotonic() + SECONDS
            while not (output.is_file() and output.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.02)
            person.press("\x03")
            person.read_until("Ctrl-C again")
            person.press("\x03")
            person.read_until("error: Stopped. Finished judgments are kept")
            assert process.wait(SECONDS) == 1
        finally:
            release.set()
            process.kill()
            os.close(person.terminal)
    assert "Traceback" not in person.seen
    assert [json.loads(x)["line"] for x in output.read_text().splitlines()] == [1]
