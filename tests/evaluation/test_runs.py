"""Runs as they are read and grouped, and the numbers of their pictures."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.evaluation.drawing import drawing
from dschat.evaluation.runs.curves import draw_curves, lines_of, runs_that_end_early
from dschat.evaluation.runs.frontier import frontier, notes_on_ends
from dschat.evaluation.runs.frontier_figure import draw_frontier
from dschat.evaluation.runs.grouping import group_runs, notes_on
from dschat.evaluation.runs.measures import EXACT_KL, drawn_measures, logged, shared_measure
from dschat.evaluation.runs.plot import plot_runs
from dschat.evaluation.runs.reading import read_runs
from dschat.settings.comparison import PlotConfig
from launch import ROOT, run_script
from runs_fixtures import online_rows, write_run


def test_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    rows = [{"step": s, "reward": float(s)} for s in (1, 2, 3, 4, 5)]
    again = [{"step": s, "reward": 10.0 * s} for s in (3, 4)]
    folder = Path(write_run(tmp_path / "a", [*rows, *again, {"step": 4, "eval/accuracy": 0.5}]))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    (run,) = read_runs([str(folder)])
    # Step 5 was made by the policy that the resumed run has left behind.
    assert [(r["step"], r["reward"]) for r in run.rows] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert run.rows[-1]["eval/accuracy"] == 0.5
    assert len(run.notes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1}\nxx\n{"step": 2}\n', "line 2 is not JSON"),
        ('{"ste', "holds no metrics"),
        ("", "holds no metrics"),
    ],
)
def test_metrics_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        read_runs([str(tmp_path)])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / s / "ppo", online_rows(1, float)) for s in ("s1", "s2")]
    assert [run.name for run in read_runs(folders)] == ["s1/ppo", "s2/ppo"]


def grouped(tmp_path: Path, *settings: dict[str, Any]) -> list[Any]:
    folders = [
        write_run(tmp_path / f"run{i}", online_rows(2, float), **each)
        for i, each in enumerate(settings)
    ]
    return group_runs(read_runs(folders))


def test_seeds_are_one_group(tmp_path: Path) -> None:
    groups = grouped(
        tmp_path,
        {"kl_ctl": 0.1, "seed": 1, "actor_model_name_or_path": "/x/runs/seed1/sft"},
        {"kl_ctl": 0.2, "seed": 1, "actor_model_name_or_path": "/x/runs/seed1/sft"},
        {"kl_ctl": 0.1, "seed": 12, "actor_model_name_or_path": "/y/runs/seed12/sft"},
    )
    assert [[run.name for run in g.runs] for g in groups] == [["run0", "run2"], ["run1"]]
    assert [g.name for g in groups] == ["kl_ctl 0.1", "kl_ctl 0.2"]
    assert {g.curve for g in groups} == {"KL"}
    assert [g.coefficient for g in groups] == [0.1, 0.2]
    assert notes_on(groups) == []


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        ("/x/llama-1b", "/x/llama-1b", 1),
        ("/x/seed1/sft", "/x/seed2/sft", 1),
        ("/x/sft_s1/step_1", "/x/sft_s2/step_1", 1),
        ("/x/seed1/sft", "/x/seed3/sft", 2),
        ("/x/llama-1b", "/x/llama-2b", 2),
        ("/x/seed1/sft", "/x/seed12/sft", 2),
    ],
)
def test_seeds_in_paths(tmp_path: Path, first: str, second: str, groups: int) -> None:
    name = "actor_model_name_or_path"
    found = grouped(tmp_path, {"seed": 1, name: first}, {"seed": 2, name: second})
    assert len(found) == groups


def test_what_differs_is_named_and_no_more(tmp_path: Path) -> None:
    groups = grouped(
        tmp_path,
        {"gamma": 1.0, "lam": 0.95},
        {"gamma": 1.0, "lam": 0.95, "penalty": "js"},
        {"gamma": 1.0, "lam": 0.9, "penalty": "js"},
    )
    # The discount is no coefficient where there is a kl_ctl.
    assert [g.coefficient for g in groups] == [0.1] * 3
    assert [g.name for g in groups] == ["KL, lam 0.95", "JS, lam 0.95", "JS, lam 0.9"]
    assert [g.curve for g in groups] == [g.name for g in groups]


def test_other_models_and_ranks_are_no_seeds(tmp_path: Path) -> None:
    groups = grouped(
        tmp_path,
        {"seed": 1, "actor_model_name_or_path": "/runs/sft-a"},
        {"seed": 2, "actor_model_name_or_path": "/runs/sft-b"},
        {"seed": 2, "actor_model_name_or_path": "/runs/sft-b"},
    )
    assert [len(g.runs) for g in groups] == [1, 2]
    assert [g.name.split("/")[-1] for g in groups] == ["sft-a", "sft-b"]
    assert any("seed 2 occurs in more than one run" in note for note in notes_on(groups))


def test_a_run_without_settings_stands_alone(tmp_path: Path) -> None:
    groups = grouped(tmp_path, {"penalty": None}, {"penalty": None}, {})
    assert [len(g.runs) for g in groups] == [1, 1, 1]
    assert [g.coefficient for g in groups] == [None, None, 0.1]
    assert len({g.name for g in groups}) == 3


def test_the_frontier_from_numbers_made_by_hand(tmp_path: Path) -> None:
    # The last tenth of 30 iterations are steps 28 to 30; an evaluation is no iteration.
    first = [
        *online_rows(30, lambda s: 1.0 if s < 28 else s - 26.0),
        {"step": 31, "eval/accuracy": 1},
    ]
    second = online_rows(30, lambda s: 5.0 if s != 29 else None, divergence=1.5)
    third = online_rows(5, lambda s: float(s), divergence=2.0)
    folders = [
        write_run(tmp_path / "a1", first, seed=1),
        write_run(tmp_path / "a2", second, seed=2),
        write_run(tmp_path / "b", third, kl_ctl=0.01),
    ]
    runs = read_runs(folders)
    groups = group_runs(runs)
    drift = shared_measure(runs, None)
    assert drift.name == "kl"
    curves = frontier(groups, drift)
    low, high = curves["KL"]  # ascending coefficient
    assert (low.drift, low.reward, low.reward_error) == (2.0, 5.0, None)
    # Means of the seeds: rewards (2 + 3 + 4) / 3 and 5, drifts 0.5 and 1.5.
    assert high.reward == pytest.approx(4.0)
    assert high.drift == pytest.approx(1.0)
    # Of two numbers d apart the standard error of the mean is d / 2.
    assert high.reward_error == pytest.approx(1.0)
    assert high.drift_error == pytest.approx(0.5)
    assert "a2: 1 of its last 3 iterations" in notes_on_ends(curves)[0]
    assert "b ends at step 5, the longest run at 31" in runs_that_end_early(groups)


def test_a_run_that_diverged_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", online_rows(9, lambda s: None if s == 9 else 1.0))
    with pytest.raises(UserError, match="none of its last 1 iterations has a finite reward"):
        plot_runs(PlotConfig([folder], str(tmp_path / "o")))


def test_one_drift_for_all(tmp_path: Path) -> None:
    rows = online_rows(3, float, divergence=0.5, log_ratio=0.2)
    kl = write_run(tmp_path / "kl", rows)
    js = write_run(tmp_path / "js", rows, penalty="js")
    k3 = write_run(tmp_path / "k3", rows, kl_estimator="k3")
    old = [{k: v for k, v in row.items() if k != "log_ratio"} for row in rows]
    bare = write_run(tmp_path / "bare", old)

    def drift(*folders: str, name: str | None = None) -> Any:
        return shared_measure(read_runs(folders), name)

    assert drift(kl, bare).name == "kl"
    shared = drift(kl, js)
    assert shared.name == "kl_sampled"
    assert shared.value(rows[0]) == pytest.approx(2.0)  # 0.2 a token, 10 tokens
    assert drift(kl, name="own").value(rows[0]) == 0.5
    with pytest.raises(UserError, match="do not share a divergence: js has kl_sampled, own .JS.; "):
        drift(js, bare)
    with pytest.raises(UserError, match="do not share --divergence kl: .*k3 has kl_sampled"):
        drift(kl, k3, name="kl")
    for name in ("own", "divergence_per_response"):
        with pytest.raises(UserError, match="another thing for each penalty: kl: KL; js: JS"):
            drift(kl, js, name=name)
    with pytest.raises(UserError, match="--divergence x: kl logs no such number"):
        drift(kl, name="x")


def test_lines_over_seeds_of_different_lengths(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", online_rows(4, lambda s: None if s == 2 else float(s)), seed=1),
        write_run(tmp_path / "b", online_rows(3, lambda s: 3.0 * s), seed=2),
    ]
    (group,) = group_runs(read_runs(folders))
    lines = {line.run: line for line in lines_of(group, logged("reward"))}
    assert lines["a"].steps == [1, 2, 3, 4]
    assert math.isnan(lines["a"].values[1])  # a gap, not a line across
    assert (lines["(mean of seeds)"].steps, lines["(mean of seeds)"].values) == ([1, 3], [2, 6])
    assert lines["(lowest seed)"].values == [1, 3]
    assert lines["(highest seed)"].values == [3, 9]


def test_the_tables_hold_what_is_drawn(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a1", online_rows(20, lambda s: s / 7), seed=1),
        write_run(tmp_path / "a2", online_rows(20, lambda s: s / 3), seed=2),
        write_run(tmp_path / "b", online_rows(20, lambda s: -s / 3, 0.9, 0.3), kl_ctl=0.5),
    ]
    runs = read_runs(folders)
    groups = group_runs(runs)
    measures = drawn_measures(runs)
    assert EXACT_KL in measures
    with drawing() as plt:
        figure, rows = draw_curves(plt, groups, measures)
        shown = [axis for axis in figure.axes if axis.get_visible()]
        for axis, measure in zip(shown, measures, strict=True):
            drawn = sorted(
                (float(x), float(y))
                for line in axis.lines
                for x, y in zip(*line.get_data(), strict=True)
            )
            said = [r for r in rows if r[4] == measure.name and "est seed" not in r[2]]
            assert sorted((float(r[3]), r[5]) for r in said) == drawn
            band = axis.collections[0].get_paths()[0].vertices[:, 1]
            edges = [r[5] for r in rows if r[4] == measure.name and "est seed" in r[2]]
            assert set(band.tolist()) == set(edges)
        curves = frontier(groups, EXACT_KL)
        figure, rows = draw_frontier(plt, curves, EXACT_KL)
        (axis,) = figure.axes
        (line,) = [
            line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"
        ]
        means = [r for r in rows if r[2] == "(mean of seeds)" or r[2] == "b"]
        assert sorted(line.get_xdata()) == sorted(r[5] for r in means if r[4] == "kl")
        assert sorted(line.get_ydata()) == sorted(r[5] for r in means if r[4] == "reward")
        places = {text.get_text(): text.xy for text in axis.texts}
        assert set(places) == {"0.1", "0.5"}
        # The mean of steps 19 and 20.
        assert places["0.5"] == pytest.approx((0.9, -6.5))


def test_runs_of_different_kinds(tmp_path: Path) -> None:
    online = write_run(tmp_path / "ppo", online_rows(2, float))
    sft = write_run(tmp_path / "sft", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}])
    with pytest.raises(UserError, match="without a reward sft; with one ppo"):
        plot_runs(PlotConfig([online, sft], str(tmp_path / "o")))
    with pytest.raises(UserError, match="none of these runs logs a reward"):
        plot_runs(PlotConfig([sft], str(tmp_path / "o"), "kl"))
    plot_runs(PlotConfig([sft], str(tmp_path / "o")))
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["curves.csv", "curves.png"]


@pytest.mark.slow
def test_the_script(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{name}{seed}", online_rows(20, lambda s: s / 9), p, seed=seed)
        for name, p in (("kl", "rkl"), ("js", "js"))
        for seed in (1, 2)
    ]
    script = ROOT / "evaluation" / "plot_runs.py"
    done = run_script(script, [*folders, "--output", tmp_path / "out"])
    assert done.returncode == 0, done.stderr
    assert "kl_sampled" in done.stdout
    for name in ("curves", "frontier"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["figure", "group", "run", "step", "metric", "value"]
        assert {row["group"] for row in rows} == {"KL", "JS"}
    wrong = run_script(script, [*folders, "--divergence", "kl"])
    assert wrong.returncode == 1
    assert "do not share" in wrong.stderr
    assert "Traceback" not in wrong.stderr
