"""Save, verify and resume a run: the one owner of it for steps 1, 2, 3, DPO and GRPO.

A run that is resumed is the run that was interrupted: the same settings, data and number of ranks.
What a script has to keep beside its engines is plain values and tensors of every rank.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dschat.checkpoint.engine_checkpoint import load_engine, load_values, save_engine
from dschat.checkpoint.resumable import (
    Checkpoint,
    choose,
    new_checkpoint,
    prune,
    refuse_old_checkpoints,
    remove_leftovers,
)
from dschat.data import clock
from dschat.errors import UserError
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import atomic_write_json, atomic_write_text, explain_write_errors
from dschat.runtime.random_states import random_states
from dschat.runtime.run_files import MetricsLog, library_versions, plain_settings
from dschat.settings.training.publishing import PublishingFlags
from dschat.settings.training.tracking import TrackingFlags

FINISHED = "finished.json"
NO_RESULT = {
    "output_dir",
    "data_output_path",
    "local_rank",
    "deepspeed",
    "checkpoint_steps",
    "checkpoint_keep",
    "resume_from_checkpoint",
    "max_bad_steps",
    "save_steps",
    "print_answers",
    "print_answers_interval",
    "print_loss",
    "reward_workers",
    "reward_timeout",
    *(f.name for flags in (TrackingFlags, PublishingFlags) for f in dataclasses.fields(flags)),
}
"""Settings that a resumed run may change: they say where and how a run shows itself."""


@dataclass
class ResumableRun:
    """One run of a training script; see `open_run`.

    Attributes:
        output_dir: where checkpoints are saved.
        keep: how many of the newest are kept.
        settings: the user's, a dataclass: saved in checkpoints and compared on resuming.
        checkpoint: the one to resume from; None: a new run.
        finished: of a run with nothing left to train, the folder of its model and its last
            evaluation.
        resolved: `settings` with what they leave open filled in, as in config.yaml, which a
            resumed run may give instead; None: the same.
        facts: what else a resumed run must share; see `check_data`.
    """

    output_dir: Path
    keep: int
    settings: Any
    checkpoint: Checkpoint | None = None
    finished: tuple[Path, dict[str, float]] | None = None
    resolved: Any = None
    facts: dict[str, Any] = field(default_factory=dict)

    def check_data(self, **facts: Any) -> None:
        """Note what describes the run's data (plain values), for its checkpoints.

        A new run now starts in earnest: what an earlier one has finished no longer counts.

        Raises:
            UserError: the checkpoint to resume from was saved with other data.
        """
        self.facts = facts
        if self.checkpoint is not None:
            _check_facts(self.checkpoint, **facts)
        elif distributed.is_main():
            (self.output_dir / FINISHED).unlink(missing_ok=True)

    def folder(self, step: int) -> Path:
        """Of the checkpoint saved after `step` steps."""
        return self.output_dir / f"resumable-{step}"

    def save(
        self,
        step: int,
        engines: Mapping[str, Any],
        own: dict[str, Any],
        log: MetricsLog,
        texts: Mapping[str, str] | None = None,
    ) -> Path:
        """Save a checkpoint, `folder(step)`, and remove older ones; all ranks call it.

        Args:
            engines: DeepSpeed engines by name.
            own: what else this rank needs, plain values and tensors.
            log: its rows so far are saved too: a resumed run writes each row once.
            texts: further files by name, written by rank 0.

        Raises:
            UserError: (on all ranks) the disk is full or the folder may not be written to.
        """
        resolved = plain_settings(self.resolved or self.settings)
        facts = {**self.facts, "resolved": resolved}
        with new_checkpoint(self.output_dir, step, self.settings, **facts) as folder:
            for name, engine in engines.items():
                save_engine(engine, folder / name)
            with on_all_ranks(), explain_write_errors(folder):
                values = {**own, "random": random_states()}
                torch.save(values, folder / f"rank-{distributed.rank()}.pt")
                if distributed.is_main():
                    for name, text in (texts or {}).items():
                        (folder / name).write_text(text, encoding="utf-8")
                    shutil.copyfile(log.path, folder / "metrics.jsonl")
        prune(self.output_dir, self.keep, step)
        distributed.log_main(f"saved {self.folder(step)}")
        return self.folder(step)

    def restore_metrics(self, log: MetricsLog) -> None:
        """Make metrics.jsonl what it was at the checkpoint, before `log` is opened to append.

        Raises:
            UserError: (on all ranks) it cannot be read or written.
        """
        with on_all_ranks():
            if self.checkpoint is not None and distributed.is_main():
                path = self.checkpoint.folder / "metrics.jsonl"
                try:
                    text = path.read_text(encoding="utf-8")
                except (OSError, ValueError) as error:
                    raise UserError(f"{path} cannot be read: {error}") from error
                atomic_write_text(log.path, text)

    def restore(self, engines: Mapping[str, Any]) -> dict[str, Any]:
        """Load the checkpoint into engines just built; all ranks call it.

        Returns:
            What this rank gave to `save` as `own`, and its `random` states: give them to
            `set_random_states` once nothing more is drawn before the next step.

        Raises:
            UserError: (on all ranks) a file is missing or does not fit.
        """
        assert self.checkpoint is not None
        folder = self.checkpoint.folder
        values: dict[str, Any] = {}
        with on_all_ranks():
            path = folder / f"rank-{distributed.rank()}.pt"
            if not path.is_file():
                raise UserError(
                    f"{folder} has no {path.name} where rank {distributed.rank()} runs. Give a "
                    "checkpoint on a disk that all machines share."
                )
            values = load_values(path)
        for name, engine in engines.items():
            load_engine(engine, folder / name)
        return values

    def mark_finished(self, step: int, model: Path, result: Mapping[str, float]) -> None:
        """Write output_dir/finished.json, so that a resumed run knows that nothing is left to do.

        Args:
            step: steps done.
            model: the folder of the trained model, in output_dir.
            result: the last evaluation.
        """
        with on_all_ranks():
            if distributed.is_main():
                value = {
                    "step": step,
                    "model": str(model.relative_to(self.output_dir)),
                    "result": dict(result),
                    "settings": plain_settings(self.settings),
                    "run": {
                        "world_size": distributed.world_size(),
                        "versions": library_versions(),
                        "clock": clock.frozen(),
                    },
                }
                atomic_write_json(self.output_dir / FINISHED, value)


def open_run(config: Any, may_differ: Collection[str] = ()) -> ResumableRun:
    """Find out what --resume_from_checkpoint means in --output_dir; all ranks call it.

    Args:
        config: a dataclass with `TrainingFlags` and output_dir.
        may_differ: names of settings, beside `NO_RESULT`, that change no result in this script.

    Raises:
        UserError: (on all ranks) the checkpoint is damaged or of another run, or a new run would
            start beside the checkpoints of an old one.
    """
    output_dir, request = Path(config.output_dir), config.resume_from_checkpoint
    run = ResumableRun(output_dir, config.checkpoint_keep, config)
    if request is None:
        refuse_old_checkpoints(output_dir)
        earlier = None
    else:
        earlier, run.finished = _read_finished(output_dir)
        if earlier is None:
            earlier = run.checkpoint = choose(output_dir, request)
    _freeze_clock(earlier)
    if earlier is not None:
        check_same_run(earlier, config, may_differ)
    if run.finished is not None:
        model = run.finished[0]
        distributed.log_main(f"The run in {output_dir} is finished; its model is {model}.")
        return run
    if earlier is not None:
        distributed.log_main(f"resuming from {earlier.folder}, step {earlier.step}")
    remove_leftovers(output_dir)
    return run


def _read_finished(
    output_dir: Path,
) -> tuple[Checkpoint | None, tuple[Path, dict[str, float]] | None]:
    """What `mark_finished` wrote, where the model that it names is still there."""
    found: Any = (None, None)
    with on_all_ranks():
        if distributed.is_main() and (output_dir / FINISHED).is_file():
            try:
                value = json.loads((output_dir / FINISHED).read_text(encoding="utf-8"))
                run = Checkpoint(output_dir, value["step"], value["settings"], value["run"])
                model, result = output_dir / value["model"], dict(value["result"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{output_dir / FINISHED} cannot be read ({error}). Remove it to resume from "
                    "the newest checkpoint."
                ) from error
            if (model / "config.json").is_file():
                found = run, (model, result)
    return distributed.broadcast_object(found)


def _freeze_clock(earlier: Checkpoint | None) -> None:
    """Chat templates are told the time of the run's first start, the same on all ranks."""
    moment = None if earlier is None else earlier.run.get("clock")
    clock.freeze(distributed.broadcast_object(clock.freeze(moment)))


def check_same_run(checkpoint: Checkpoint, settings: Any, may_differ: Collection[str] = ()) -> None:
    """Refuse settings that would make it another run; warn of other library versions.

    Raises:
        UserError: every setting that differs, with both values, and the number of ranks.
    """
    now, old = plain_settings(settings), checkpoint.settings
    resolved = {**old, **checkpoint.run.get("resolved", {})}
    differences = [
        f"--{name} {old.get(name, 'unset')} -> {now.get(name, 'unset')}"
        for name in sorted(now.keys() | old.keys())
        if now.get(name) not in (old.get(name), resolved.get(name))
        and name not in NO_RESULT.union(may_differ)
    ]
    _check_facts(checkpoint, differences, world_size=distributed.world_size())
    before = checkpoint.run.get("versions", {})
    for name, version in library_versions().items():
        if before.get(name) != version:
            distributed.log_main(
                f"WARNING: {name} is {version} now and was {before.get(name)}: the resumed run "
                "may differ from an uninterrupted one."
            )


def _check_facts(checkpoint: Checkpoint, differences: Sequence[str] = (), **facts: Any) -> None:
    """Raise `UserError` that names all differences, with both values."""
    names = {"world_size": "number of ranks"}
    found = [
        *differences,
        *(
            f"{names.get(name, name.replace('_', ' '))} {checkpoint.run.get(name)} -> {value}"
            for name, value in facts.items()
            if checkpoint.run.get(name) != value
        ),
    ]
    if found:
        raise UserError(
            f"{checkpoint.folder} was saved by a run with other settings: {'; '.join(found)}. The "
            "resumed run would be neither that run nor this one. Use the old values, or start a "
            "new run in another --output_dir."
        )
