"""Programs per second of the code reward, beside simpler ways to run programs against tests.

    python benchmarks/code_execution.py                # minutes, on two cores
    python benchmarks/code_execution.py --programs 60 --repeats 3 --workers 2

A program prints the sum of two numbers. All ways get the same programs in one process, in turn,
``--repeats`` times; the best counts. "a test" starts a fresh interpreter for every test, bare
(which isolates nothing and stops nothing) or in a sandbox of its own; "a program" is what the
package does, one sandbox in which a server forks for each test; "fork server" forks for each
program too (`code_fork_server.py`: a prototype, for root alone). bubblewrap is measured where it
works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from code_fork_server import fork_server
from dschat.errors import UserError
from dschat.rewards.code_execution import CodeExecutionReward

PROGRAM = "a, b = map(int, input().split())\nprint(a + b)\n"
TEST_COUNTS = (2, 20)
BARE = "bare, a test"


def examples(programs: int, tests: int) -> list[dict[str, Any]]:
    """Rows with tests that differ from each other."""
    inputs = [f"{i} {2 * i}\n" for i in range(tests)]
    outputs = [f"{3 * i}\n" for i in range(tests)]
    text = json.dumps({"inputs": inputs, "outputs": outputs})
    return [{"input_output": text}] * programs


def run_bare(programs: int, tests: int, workers: int) -> None:
    """A fresh interpreter for every test, as this user, without any limit."""

    def run(i: int) -> None:
        number = i % tests
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", PROGRAM],
            input=f"{number} {2 * number}\n",
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{3 * number}\n"

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(programs * tests)))


def run_reward(reward: CodeExecutionReward, programs: int, tests: int) -> None:
    """One call of the reward."""
    results = reward.run([PROGRAM] * programs, examples(programs, tests))
    assert all(result.share_passed == 1 for result in results)


def ways(
    workers: int,
) -> dict[str, tuple[Callable[[int, int], None], Callable[[], Any]]]:
    """By name: how programs and tests are run, and what is open meanwhile."""
    found: dict[str, Any] = {BARE: (lambda p, t: run_bare(p, t, workers), nullcontext)}
    for kind in ("limits", "bwrap"):
        try:
            reward = CodeExecutionReward(workers, kind)  # type: ignore[arg-type]
        except UserError as error:
            print(f"{kind} is not measured: {error}")
            continue
        whole = lambda p, t, r=reward: run_reward(r, p, t)  # noqa: E731
        found[f"{kind}, a test"] = (lambda p, t, f=whole: f(p * t, 1), nullcontext)
        found[f"{kind}, a program"] = (whole, nullcontext)
        if kind == "limits" and os.geteuid() == 0:
            found["limits, fork server"] = (whole, fork_server)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=24, help="run at each measurement (24)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts (3)")
    parser.add_argument("--workers", type=int, default=2, help="programs at once (2)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    measured = ways(options.workers)
    rates: dict[str, dict[int, float]] = {name: {} for name in measured}
    for tests in TEST_COUNTS:
        for _ in range(options.repeats):
            for name, (run, opened) in measured.items():
                with opened():
                    run(1, 1)
                    start = time.perf_counter()
                    run(options.programs, tests)
                    rate = options.programs / (time.perf_counter() - start)
                rates[name][tests] = max(rates[name].get(tests, 0.0), rate)
    print_table(rates, options)


def print_table(rates: dict[str, dict[int, float]], options: argparse.Namespace) -> None:
    """Rates, and their ratios to fresh interpreters: bare, and in the same sandbox."""
    print(
        f"{options.programs} programs, {options.workers} workers, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    columns = ["{t} tests: programs/s", "/ bare, a test", "/ same sandbox, a test"]
    for tests in TEST_COUNTS:
        print(f"\n{'':24}" + "".join(c.format(t=tests).rjust(24) for c in columns))
        for name, found in rates.items():
            own = rates.get(f"{name.split(',')[0]}, a test", found)
            cells = [found[tests], found[tests] / rates[BARE][tests], found[tests] / own[tests]]
            print(name.ljust(24) + "".join(f"{cell:.2f}".rjust(24) for cell in cells))


if __name__ == "__main__":
    main()
