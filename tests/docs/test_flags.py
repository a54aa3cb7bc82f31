"""docs/flags.md, and the flags that other pages name."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from doc_pages import INLINE, PAGES, ROOT, page_id, prose

OTHERS = {
    *("num_accelerators", "master_port", "hostfile", "local_rank", "no_python"),  # the launchers'
    *("master_addr", "launcher", "no_ssh_check", "multi_gpu", "cpu", "num_processes"),
    *("gpus-per-task", "gpus-per-node", "gpu-bind", "signal"),  # SLURM's
    *("algo", "train"),  # the first parts of OpenRLHF's
    *("all", "nightly", "allow-skips", "durations"),  # scripts/test.sh and pytest
    "unshare-all",  # bubblewrap
}


def make_flags() -> Any:
    spec = importlib.util.spec_from_file_location("make_flags", ROOT / "docs/make_flags.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_flags_is_up_to_date() -> None:
    made = make_flags().page()
    assert made == (ROOT / "docs/flags.md").read_text(), "run: python docs/make_flags.py"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in ("log.md", "CHANGELOG.md")], ids=page_id
)
def test_pages_name_flags_that_exist(page: Path) -> None:
    known = set(re.findall(r"`--([\w-]+)`", (ROOT / "docs/flags.md").read_text()))
    for path in ROOT.glob("benchmarks/*.py"):
        known |= set(re.findall(r'"--([\w-]+)"', path.read_text()))
    named = {
        flag
        for code in INLINE.findall(prose(page.read_text()))
        for flag in re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", code)
    }
    spelled = {name.replace("-", "_") for name in known} | OTHERS
    assert {name for name in named if name.replace("-", "_") not in spelled} - OTHERS == set()
