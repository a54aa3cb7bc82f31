"""Runs of a plan, one row of a CSV each: what a penalty buys, and whether its metric is the reason.

    python benchmarks/frontier.py --plan benchmarks/frontier_example.yaml [--jobs 2]
    python benchmarks/frontier.py --plan benchmarks/frontier_example.yaml --summary
    python benchmarks/frontier.py --plan benchmarks/frontier_example.yaml --figure FILE.png

A run is training and measuring, in processes of one thread at low priority. Started again,
what is in the CSV is skipped, and what was interrupted resumes from its last checkpoint. Rows are
in --rows, everything else in --out. All settings of a seed come before the next seed. What is
measured, and why, is in docs/frontier.md.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "applications/DeepSpeed-Chat"
sys.path[:0] = [str(PACKAGE)]  # also where the package is not installed

from dschat.evaluation.tables import distinct_n  # noqa: E402
from dschat.runtime.files import atomic_write_text, read_jsonl  # noqa: E402
from frontier_summary import EACH, MEASURES, print_summary, save_figure  # noqa: E402

COLUMNS = ("penalty", "coefficient", "seed", *MEASURES, "distinct_1", "distinct_2", "seconds")
SECONDS = 2  # digits


@dataclass(frozen=True)
class Run:
    """A cell of the plan."""

    penalty: str
    coefficient: float
    seed: int

    @property
    def key(self) -> tuple[str, float, int]:
        """What tells it from the others."""
        return self.penalty, self.coefficient, self.seed

    @property
    def name(self) -> str:
        """For its folder."""
        words = re.sub(r"\W+", "-", self.penalty).strip("-")
        return f"{words}-{self.coefficient:g}-seed{self.seed}"


def runs_of(plan: dict[str, Any]) -> list[Run]:
    """In the order in which they are started: seed after seed."""
    return [
        Run(name, float(coefficient), seed)
        for seed in plan["seeds"]
        for name, penalty in plan["penalties"].items()
        for coefficient in penalty["coefficients"]
    ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Finished runs, numbers as such; numbers of each prompt are lists."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        for name in COLUMNS[1:]:
            row[name] = float(row[name])
        row["seed"] = int(row["seed"])
        for name in EACH:
            row[name] = [float(x) for x in row[name].split()]
    return rows


def rows_text(rows: list[dict[str, Any]]) -> str:
    """The CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *EACH])
    for row in rows:
        plain = [row[name] for name in COLUMNS]
        writer.writerow([*plain, *(" ".join(f"{x:.4g}" for x in row[name]) for name in EACH)])
    return text.getvalue()


class Driver:
    """Carries out a plan."""

    def __init__(self, plan: dict[str, Any], out: Path, rows: Path, nice: int = 19) -> None:
        self.plan, self.out, self.path, self.nice = plan, out, rows, nice
        self.rows = read_rows(rows)
        self.lock = threading.Lock()
        self.failed = 0

    def command(self, line: str, log: Path, **values: Any) -> None:
        """Run a line of the plan.

        Raises:
            RuntimeError: it failed; the message has the end of its output.
        """
        filled = line.format(root=ROOT, out=self.out, **values)
        words = ["nice", "-n", str(self.nice), *shlex.split(filled)]
        if words[3] == "python":
            words[3] = sys.executable
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            code = subprocess.call(
                words, stdout=file, stderr=file, env={**os.environ, **threads, **offline}
            )
        if code:
            end = log.read_text(encoding="utf-8", errors="replace")[-600:]
            raise RuntimeError(f"exit code {code} of: {filled}\n{end}\n(all of it: {log})")

    def prepare(self) -> None:
        """The base of all runs; steps that are done are skipped."""
        for name, line in self.plan.get("prepare", {}).items():
            done = self.out / f"{name}.done"
            if not done.exists():
                print(f"preparing: {name}", flush=True)
                self.command(line, self.out / f"{name}.log")
                done.touch()

    def carry_out(self, run: Run) -> None:
        """Train, measure, add the row; a failure is said and leaves the others alone."""
        begin, folder = time.monotonic(), self.out / "runs" / run.name
        values = {"run": folder, "seed": run.seed, "coefficient": f"{run.coefficient:g}"}
        flags = self.plan["penalties"][run.penalty]["flags"]
        try:
            self.command(f"{self.plan['train']} {flags}", folder / "train.log", **values)
            self.command(self.plan["measure"], folder / "measure.log", **values)
            row = measured(run, folder / "measured/policy.jsonl")
        except (RuntimeError, OSError, KeyError) as error:
            with self.lock:
                self.failed += 1
                print(f"failed: {run.name}: {error}", file=sys.stderr, flush=True)
            return
        row["seconds"] = round(time.monotonic() - begin, SECONDS)
        with self.lock:
            self.rows.append(row)
            atomic_write_text(self.path, rows_text(self.rows))
            figures = ", ".join(f"{name} {row[name]:.3f}" for name in MEASURES)
            print(f"{len(self.rows)}: {run.name}: {figures}, {row['seconds']:.0f} s", flush=True)
        shutil.rmtree(folder / "train")

    def all(self, jobs: int) -> None:
        """What is not in the CSV."""
        finished = {(r["penalty"], r["coefficient"], r["seed"]) for r in self.rows}
        left = [run for run in runs_of(self.plan) if run.key not in finished]
        print(f"{len(finished)} of {len(finished) + len(left)} runs are finished", flush=True)
        if left:
            self.prepare()
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(self.carry_out, left))


def measured(run: Run, path: Path) -> dict[str, Any]:
    """The row of a run from the responses that compare.py wrote; KL is per response, exact."""
    lines = read_jsonl(path)
    each = {
        "proxy_each": [line["reward"] for line in lines],
        "gold_each": [line["scores"]["gold score"] for line in lines],
        "kl_each": [line["divergences"]["KL to reference"] for line in lines],
        "length_each": [float(line["tokens"]) for line in lines],
    }
    means = {
        name: round(sum(x) / len(x), 5) for name, x in zip(MEASURES, each.values(), strict=True)
    }
    texts = [line["response"] for line in lines]
    distinct = {f"distinct_{n}": round(distinct_n(texts, n), 5) for n in (1, 2)}
    what = {"penalty": run.penalty, "coefficient": run.coefficient, "seed": run.seed}
    return {**what, **means, **distinct, **each}


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder: a second driver would write over the first one's rows."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"error: another driver works in {out}. Wait for it, or give another --out.")
        yield


def main() -> int:
    """Run what is left of the plan, or print or draw what there is."""
    parser = argparse.ArgumentParser(
        description="Runs of a plan, one row of a CSV each.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--plan", type=Path, required=True, help="YAML file of runs")
    parser.add_argument("--rows", type=Path, help="CSV; unset: assets/PLAN.csv")
    parser.add_argument("--out", type=Path, help="models and logs; unset: runs/PLAN")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--nice", type=int, default=19, help="lower priority of runs by this")
    parser.add_argument("--summary", action="store_true", help="print tables of finished runs")
    parser.add_argument("--figure", type=Path, help="draw finished runs into this PNG")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: give 1 or more")
    plan = yaml.safe_load(given.plan.read_text(encoding="utf-8"))
    path = given.rows or ROOT / "assets" / f"{given.plan.stem}.csv"
    if given.summary or given.figure:
        rows = read_rows(path)
        if not rows:
            parser.error(f"{path} has no finished run: start the plan without --summary first")
        if given.summary:
            print_summary(rows, plan["compare"], len(runs_of(plan)))
        if given.figure:
            save_figure(rows, given.figure)
        return 0
    out = (given.out or ROOT / "runs" / given.plan.stem).resolve()
    with alone(out):
        driver = Driver(plan, out, path, given.nice)
        driver.all(given.jobs)
        return 1 if driver.failed else 0


if __name__ == "__main__":
    sys.exit(main())
