"""inference_apps.py: pass@k by enumeration, rewards by running the programs elsewhere, resuming."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from dpo_fixtures import command_line
from dschat.commands.respond import PROGRAMS
from dschat.evaluation.respond.code_run import (
    figures_by_difficulty,
    infer_programs,
    reported_ks,
)
from dschat.evaluation.respond.partial import json_line
from dschat.example.programs import PROBLEMS, program_rows
from inference_fixtures import read
from program_fixtures import SHORTEST

RESPONSES = 4
NAME = Path("results/data/temperature=1.0/sft.jsonl")


def infer(flags: dict[str, Any]) -> dict[str, Any]:
    config = PROGRAMS.parse(command_line(flags))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return infer_programs(config)


@pytest.fixture(scope="module")
def whole(code_flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run from beginning to end: its rows and its summary."""
    folder = tmp_path_factory.mktemp("whole")
    summary = infer({**code_flags, "proj-path": folder})
    return {"rows": read(folder / NAME), "summary": summary, "folder": folder}


def test_rows_are_in_the_datas_order(whole: dict[str, Any]) -> None:
    data = [program_rows()[i] for i in SHORTEST]
    rows = whole["rows"]
    assert len(rows) == RESPONSES * len(SHORTEST)
    assert list(rows[0])[:3] == ["prompt", "response", "reward"]
    for number, row in enumerate(rows):
        problem = data[number // RESPONSES]
        assert row["problem"] == number // RESPONSES
        assert row["problem_id"] == problem["problem_id"]
        assert row["difficulty"] == problem["difficulty"]
        assert row["prompt"] == f"### Problem:\n{problem['question']}\n\n### Response:\n"
        assert len(row["verdicts"]) == len(json.loads(problem["input_output"])["inputs"])


def rounded(text: str) -> list[str]:
    """Words, with two places of those that have a point."""
    return [f"{float(word):.2f}" if "." in word else word for word in text.split()]


def outcome(program: str, number: int) -> str:
    """What a bare interpreter makes of a program: "passed", "wrong" or "error"."""
    problem, right = PROBLEMS[number], True
    for given, expected in problem.tests:
        if problem.function is None:
            code, data = program, given
        else:
            data = ""
            holder = "Solution()." * ("class Solution" in program)
            call = f"{holder}{problem.function}(*{given!r})"
            code = f"import json\n{program}\nprint(json.dumps({call}) == json.dumps({expected!r}))"
        code = f"import math\nfrom typing import *\nfrom collections import *\n{code}"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code],
            input=data,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if done.returncode:
            return "error"
        wanted = expected if problem.function is None else "True"
        right = right and rounded(done.stdout) == rounded(wanted)
    return "passed" if right else "wrong"


@pytest.mark.slow
def test_rewards_are_those_of_a_bare_interpreter(whole: dict[str, Any]) -> None:
    seen = {}
    for row in whole["rows"]:
        key = (row["response"], SHORTEST[row["problem"]])
        seen[key] = seen.get(key) or outcome(*key)
        if row["verdicts"][0] == "compile_error":
            assert row["reward"] == -1
            with pytest.raises((SyntaxError, ValueError)):
                compile(row["response"], "", "exec")
        elif seen[key] == "error":
            assert row["reward"] == -0.6
            assert row["message"]
        else:
            share = statistics.fmean(v == "passed" for v in row["verdicts"])
            assert row["reward"] == pytest.approx(-0.3 + 1.3 * share)
            assert (share == 1) == (seen[key] == "passed")
    assert {"passed", "wrong"} <= set(seen.values()), "the model knows right and wrong programs"


def test_the_summary_is_of_the_rows(whole: dict[str, Any]) -> None:
    rows, figures = whole["rows"], whole["summary"]["figures"]
    by_problem = [rows[i : i + RESPONSES] for i in range(0, len(rows), RESPONSES)]
    solved = [[set(row["verdicts"]) == {"passed"} for row in problem] for problem in by_problem]
    assert 0 < sum(map(sum, solved)) < len(rows)
    for k in range(1, RESPONSES + 1):
        tries = [statistics.fmean(map(any, itertools.combinations(s, k))) for s in solved]
        assert figures["sft"][f"pass@{k}"] == pytest.approx(statistics.fmean(tries))
    means = [statistics.fmean(row["reward"] for row in problem) for problem in by_problem]
    assert figures["sft"]["reward"] == pytest.approx(statistics.fmean(means))
    error = statistics.stdev(means) / len(means) ** 0.5
    assert figures["sft"]["standard_error"] == pytest.approx(error)
    assert figures["sft"]["ended"] == statistics.fmean(row["ended"] for row in rows)


def test_shares_and_difficulties_by_hand() -> None:
    ends = ["compile_error", "runtime_error", "timeout", "wrong", "passed", "passed"]
    rows = [
        {"verdicts": ["passed" if end == "wrong" else end, end], "reward": r, "difficulty": kind}
        for end, r, kind in zip(
            ends, [-1, -0.6, -0.6, 0.35, 1, 1], ["interview"] * 4 + [None] * 2, strict=True
        )
    ]
    figures = figures_by_difficulty("ppo", rows, 2)
    assert list(figures) == ["ppo", "interview", "no difficulty given"]
    found = figures["ppo"]
    assert (found["problems"], found["responses"]) == (3, 6)
    assert (found["compile_error"], found["failed"], found["ran"]) == (1 / 6, 2 / 6, 3 / 6)
    assert found["reward"] == pytest.approx((-0.8 - 0.125 + 1) / 3)
    assert figures["interview"]["pass@2"] == 0
    assert figures["no difficulty given"]["pass@1"] == 1
    assert figures["no difficulty given"]["standard_error"] is None


def test_which_ks_are_told() -> None:
    assert reported_ks(1) == [1]
    assert reported_ks(5) == [1, 2, 3, 4, 5]
    assert reported_ks(60) == [1, 2, 3, 4, 5, 10, 20, 50, 60]


def test_the_data_sets_own_solutions(code_flags: dict[str, Any], tmp_path: Path) -> None:
    """Some rows cannot be used: they are left out, and the others keep their numbers."""
    rows = program_rows()[:7]
    rows[2]["input_output"] = json.dumps({"inputs": ["1"], "outputs": []})
    rows[3]["solutions"] = "[]"
    rows[4]["input_output"] = json.dumps({"inputs": ["1"], "outputs": ["1", "2"]})
    rows[5]["solutions"] = json.dumps(["x = (", "print(1)"])
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "test"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"proj-path": tmp_path, "dataset": data, "ref-scores": True, "sandbox": "limits"}
    figures = infer(asked)["figures"]["dataset"]
    found = read(tmp_path / "results/data/temperature=0.8/dataset.jsonl")
    assert [row["problem"] for row in found] == [0, 1, 5, 6]
    assert [row["reward"] for row in found] == [1, 1, -1, 1]
    assert found[0]["response"] == PROBLEMS[0].solution
    assert "SyntaxError" in found[2]["message"]
    assert figures["pass@1"] == 3 / 4
    few = infer({**asked, "num-samples": 2, "overwrite": True})
    assert few["figures"]["dataset"]["responses"] == 2


def test_hostile_texts_do_not_break_the_file(tmp_path: Path) -> None:
    """Half a character, NUL and what ends a line elsewhere, from a program and from the data."""
    row = program_rows()[0]
    row["difficulty"] = "\ud800hard"
    text = 'half \\ud800 nul \\0 lines \\u2028\\u2029\\x85\\x0b\\r quote \\"}'
    row["solutions"] = json.dumps([f"import sys\nsys.stderr.write('{text}')\nsys.exit(1)"])
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "test"):
        (data / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    infer({"proj-path": tmp_path, "dataset": data, "ref-scores": True, "sandbox": "limits"})
    path = tmp_path / "results/data/temperature=0.8/dataset.jsonl"
    (found,) = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert found["reward"] == -0.6
    assert "nul \0 lines \u2028\u2029\x85\x0b\r quote" in found["message"]
    assert found["difficulty"] == "\ufffdhard"


def test_a_line_holds_any_text() -> None:
    text = "".join(map(chr, range(0x3000))) + "\ud83d\ude00 \ud800 \udc00x \U0001f600"
    line = json_line({"a": text})
    assert len(line.splitlines()) == 1
    line.encode("utf-8")
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert json.loads(line) == {"a": whole}
    assert whole.endswith("\U0001f600 \ufffd \ufffdx \U0001f600")


def test_greedy_is_one_response(code_flags: dict[str, Any], tmp_path: Path) -> None:
    flags = {n: v for n, v in code_flags.items() if n not in ("num_responses", "temperature")}
    settings = infer({**flags, "proj-path": tmp_path, "temperature": 0, "num-samples": 3})[
        "settings"
    ]
    assert (settings["num_responses"], settings["top_k"]) == (1, None)
    rows = read(tmp_path / "results/data/temperature=0.0/sft.jsonl")
    assert len(rows) == 3
    assert [row["problem"] for row in rows] == sorted(row["problem"] for row in rows)
