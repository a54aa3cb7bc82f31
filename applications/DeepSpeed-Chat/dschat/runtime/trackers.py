"""Metrics to TensorBoard, Weights & Biases and Trackio, through accelerate's trackers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dschat.errors import UserError
from dschat.runtime.distributed import log_main
from dschat.runtime.files import atomic_write_json, explain_write_errors
from dschat.settings.training.tracking import TrackingFlags

IDENTITY = "tracker_run.json"
"""The run's name among trackers' runs, in the output folder: a resumed run goes on under it."""


class Trackers:
    """The trackers of a run. For rank 0 only.

    What goes wrong in one of them never stops the run: there is a warning, and nothing more is sent
    to it. TensorBoard's folder is the user's, and one that cannot be written to is an error.

    Args:
        settings: the run's, with their flags; those of `TrackingFlags` say where metrics go.
        config: plain settings for the trackers to show, without secrets.
        output_dir: where the run's identity and wandb's files are kept.
        resuming: whether an earlier run goes on.
    """

    def __init__(
        self, settings: TrackingFlags, config: Mapping[str, Any], output_dir: Path, resuming: bool
    ) -> None:
        self.names, self.settings, self.config = settings.trackers, settings, config
        self.output_dir, self.resuming = Path(output_dir), resuming
        self.open: dict[str, Any] = {}

    def start(self, next_step: int | None) -> None:
        """Open them all.

        Args:
            next_step: of a resumed run, the first step that will be written: what came after it
                before is replaced (TensorBoard), or stays as it is, the same rows (the others).

        Raises:
            UserError: TensorBoard's files cannot be written.
        """
        if not self.names:
            return
        from accelerate import tracking

        # accelerate's own logger asks for its process state; making that sets environment
        # variables and the number of threads, and with it the last digits of results.
        tracking.logger = logging.getLogger(tracking.__name__)  # type: ignore[assignment]
        makers = {
            "tensorboard": lambda: self._tensorboard(tracking.TensorBoardTracker, next_step),
            "wandb": lambda: self._wandb(tracking.WandBTracker),
            "trackio": lambda: self._trackio(tracking.TrackioTracker),
        }
        for name in self.names:
            with self._harmless(name):
                tracker = makers[name]()
                tracker.main_process_only = False  # only rank 0 is here
                tracker.start()
                self.open[name] = tracker

    def _tensorboard(self, kind: Any, next_step: int | None) -> Any:
        folder = self.settings.board_folder(self.output_dir)
        assert folder is not None
        with explain_write_errors(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
        return kind("", folder, purge_step=next_step)

    def _wandb(self, kind: Any) -> Any:
        identity = self._identity()
        options = {} if "WANDB_DIR" in os.environ else {"dir": str(self.output_dir)}
        return kind(
            self.settings.project_of("wandb"),
            name=self._name(),
            id=identity,
            resume="allow",
            config=dict(self.config),
            **options,
        )

    def _trackio(self, kind: Any) -> Any:
        name = f"{self._name()}-{self._identity()}"  # it knows runs by their names
        project = self.settings.project_of("trackio")
        return kind(project, name=name, resume="allow", config=dict(self.config))

    def _name(self) -> str:
        return self.settings.run_name or self.output_dir.resolve().name

    def _identity(self) -> str:
        """Eight random hexadecimal digits, the same after resuming."""
        path = self.output_dir / IDENTITY
        if self.resuming:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        self.resuming, identity = True, secrets.token_hex(4)
        atomic_write_json(path, {"id": identity})
        return identity

    def log(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row of metrics; `row["step"]` is the step."""
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
        for name, tracker in list(self.open.items()):
            with self._harmless(name):
                tracker.log(numbers, step=row.get("step"))

    def close(self) -> None:
        """Send what is left."""
        for name, tracker in list(self.open.items()):
            with self._harmless(name):
                tracker.finish()
        self.open = {}

    @contextlib.contextmanager
    def _harmless(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of many kinds, by foreign packages
            self.open.pop(name, None)
            said = (str(error).strip() or repr(error)).splitlines()[0]
            advice = " WANDB_MODE=offline needs no network and no login." * (name == "wandb")
            log_main(
                f"WARNING: {name} failed ({said}): nothing more is sent to it; metrics.jsonl has "
                f"all metrics.{advice}"
            )
