"""Every row of `bad_input_table`: one line says what is wrong, and nothing is left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_input_files import make_files
from bad_input_runs import SCRIPTS, command, error_line, exit_code
from bad_input_table import TABLE
from launch import environment

IN_A_PROCESS_OF_ITS_OWN = [
    ("sft", "torn.yaml"),
    ("judge", "--model_name_a torn.jsonl"),
    ("inference", "--gpu 0"),
]
# A run's settings, and what it keeps of prepared data for the next start.
MAY_BE_LEFT = re.compile(
    r"config\.yaml|metrics\.jsonl|(data|results/\.cache)/\w+/\w+\.(arrow|json)"
    r"|results/.*/\.\w+\.partial/(settings\.json|\w+\.rank-0\.jsonl)"
)


@pytest.fixture(scope="module")
def given(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all files, in which the scripts are started."""
    folder = tmp_path_factory.mktemp("given")
    make_files(folder, tiny_tokenizer)
    return folder


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]} {row[1]}" for row in TABLE])
def test_a_wrong_input_is_told_in_one_line(
    row: tuple[Any, ...],
    given: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    script, typed, says, code = row if len(row) == 4 else (*row, 1)
    out, before = tmp_path / "out", contents(given)
    monkeypatch.chdir(given)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("dschat.runtime.script.SECONDS_FOR_RANK_0", 0.0)
    capfd.readouterr()
    found = exit_code(command(script, typed, out))
    told = error_line(capfd.readouterr().err)
    assert re.search(says, told), told
    assert found == code
    assert contents(given) == before
    left = [str(p.relative_to(out)) for p in out.rglob("*") if not p.is_dir()]
    assert not [path for path in left if not MAY_BE_LEFT.fullmatch(path)]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "typed"), IN_A_PROCESS_OF_ITS_OWN)
def test_a_process_of_its_own_ends_in_the_same_way(
    script: str,
    typed: str,
    given: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(given)
    asked = command(script, typed, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, str(asked.script), *asked.arguments],
        env=environment(**asked.variables),
        capture_output=True,
        text=True,
    )
    capfd.readouterr()
    assert (done.returncode, error_line(done.stderr)) == (
        exit_code(asked),
        error_line(capfd.readouterr().err),
    )


def test_the_table_is_about_all_scripts() -> None:
    assert {row[0] for row in TABLE} == set(SCRIPTS)
