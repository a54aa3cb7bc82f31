"""What comes from data, files and servers cannot command a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from dschat.errors import one_line, printable
from dschat.evaluation.drawing import write_table

SHOWN = "\N{REPLACEMENT CHARACTER}"
# By Unicode's own table of bidirectional classes, not by the list in the code.
FORMATTING = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.bidirectional(chr(code))
    in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
]


@pytest.mark.parametrize("character", [*FORMATTING, *"\x1b\x9b\x07\x08\x7f\r\x00\u2028\u2029"])
def test_no_command_or_direction_is_left(character: str) -> None:
    assert printable(f"a{character}b") == f"a{SHOWN}b"
    assert character not in one_line(f"a{character}b")


def test_ordinary_text_of_all_scripts_is_kept() -> None:
    text = "naïve שלום مرحبا 你好 \N{FAMILY}\u200d\t\n"
    assert printable(text) == text


SCRIPT = """
import logging, sys
from dschat.errors import UserError
from dschat.runtime.script import run_script
bad = "name\\x1b]0;title\\x07\\u202egnp.exe\\x9b2J\\rover"
def main():
    logging.getLogger("some.library").warning("read %s", bad)
    logging.getLogger("dschat").error(bad)
    from dschat.runtime.distributed import log_main
    log_main(f"--- response: {bad}")
    raise UserError(f"{bad} cannot be read")
run_script(main)
"""


def test_errors_logs_and_answers_of_a_script_are_printable() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False)
    assert done.returncode == 1
    shown = (done.stdout + done.stderr).decode("utf-8")
    assert not any(c in shown for c in "\x1b\x07\x9b\r\u202e")
    assert shown.count("gnp.exe") == 4


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-1.5e3", "-1.5e3"),
        ("kl=0.1", "kl=0.1"),
    ],
)
def test_names_in_tables_are_no_formulas(tmp_path: Path, name: str, cell: str) -> None:
    write_table(tmp_path / "t.csv", [(name, name, "r", 1, "m", 1.0)])
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        row = list(csv.reader(file))[1]
    assert row == [cell, cell, "r", "1", "m", "1.0"]
