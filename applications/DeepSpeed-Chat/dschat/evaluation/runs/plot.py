"""From folders of runs to pictures: what `plot_runs.py` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dschat.errors import UserError, printable
from dschat.evaluation.drawing import drawing, save_picture, write_table
from dschat.evaluation.runs import curves, frontier_figure
from dschat.evaluation.runs.frontier import Point, frontier, notes_on_ends
from dschat.evaluation.runs.grouping import group_runs, notes_on
from dschat.evaluation.runs.measures import Measure, drawn_measures, shared_measure
from dschat.evaluation.runs.reading import Run, read_runs
from dschat.evaluation.runs.settings import compared_settings, differing
from dschat.evaluation.tables import text_table
from dschat.settings.comparison import PlotConfig

SAME_FOR_A_FRONTIER = (
    "temperature",
    "actor_model_name_or_path",
    "critic_model_name_or_path",
    "refs",
    "ref_a",
    "ref_b",
    "data_path",
    "dataset",
)


def plot_runs(config: PlotConfig) -> None:
    """Draw the curves and, of runs that log a reward, the frontier.

    Raises:
        UserError: a run cannot be read, or the runs share no divergence.
    """
    runs = read_runs(config.runs)
    groups = group_runs(runs)
    drift = _drift(runs, config.divergence)
    measures = drawn_measures(runs)
    if not measures:
        raise UserError("None of these runs logs a reward, a divergence, a length or a loss.")
    points = frontier(groups, drift) if drift else None
    output = Path(config.output)
    notes = [note for run in runs for note in run.notes]
    notes += curves.runs_that_end_early(groups) + notes_on(groups)
    with drawing() as plt:
        figure, rows = curves.draw_curves(plt, groups, measures)
        save_picture(figure, output / "curves.png")
        write_table(output / "curves.csv", rows)
        if points and drift:
            figure, rows = frontier_figure.draw_frontier(plt, points, drift)
            save_picture(figure, output / "frontier.png")
            write_table(output / "frontier.csv", rows)
            notes += notes_on_ends(points) + _not_alike(runs)
    if points and drift:
        print(_table(points, drift))
    else:
        print("These runs log no reward: there is no frontier to draw.")
    for note in notes:
        print(printable(f"Note: {note}."))
    names = ("curves", "frontier") if points else ("curves",)
    print(f"Written to {output.resolve()}: " + ", ".join(f"{n}.png, {n}.csv" for n in names))


def _drift(runs: Sequence[Run], name: str | None) -> Measure | None:
    """The frontier's horizontal axis; None where no run logs a reward."""
    with_reward = [run for run in runs if run.has("reward")]
    if not with_reward:
        if name is not None:
            raise UserError(
                f"--divergence {name} is of the frontier, and none of these runs logs a reward "
                "(as PPO, GRPO and RLOO do). Remove the flag."
            )
        return None
    if len(with_reward) < len(runs):
        others = ", ".join(run.name for run in runs if run not in with_reward)
        raise UserError(
            f"These are runs of different kinds: without a reward {others}; with one "
            f"{', '.join(run.name for run in with_reward)}. Draw each kind by itself."
        )
    return shared_measure(runs, name)


def _not_alike(runs: Sequence[Run]) -> list[str]:
    """What makes rewards or drifts of two runs two different things."""
    known = [compared_settings(run) for run in runs if run.settings is not None]
    names = [n for n in differing(known) if n in SAME_FOR_A_FRONTIER]
    if not names:
        return []
    return [
        f"not the same for all runs: {', '.join(names)}. Rewards and drifts of different models, "
        "data or temperatures are not on one scale"
    ]


def _table(points: dict[str, list[Point]], drift: Measure) -> str:
    """The frontier's points as text."""
    rows = []
    for name, curve in points.items():
        for point in curve:
            beta = point.group.coefficient
            rows.append(
                [
                    printable(name),
                    "-" if beta is None else f"{beta:g}",
                    str(len(point.ends)),
                    _with_error(point.drift, point.drift_error),
                    _with_error(point.reward, point.reward_error),
                ]
            )
    header = ["regulariser", "coefficient", "seeds", drift.name, "reward"]
    return (
        text_table(header, rows) + f"{drift.name}: {drift.title}. ±: standard error over seeds.\n"
    )


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")
