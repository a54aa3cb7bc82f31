"""The flags of trackers: where metrics go beside metrics.jsonl."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from dschat.settings.flags import TRACKING, Settings, flag, require

TRACKERS = ["tensorboard", "wandb", "trackio"]
DEFAULT_PROJECT = "dschat"
WITH_PROJECTS = {"wandb", "trackio"}


@dataclass
class TrackingFlags(Settings):
    """Trackers, under the names of transformers' TrainingArguments; --enable_tensorboard is
    DeepSpeed-Chat's."""

    report_to: list[str] | None = flag(
        None,
        "Trackers that metrics go to, beside metrics.jsonl: one or several of tensorboard, wandb "
        "and trackio; none, or unset: none.",
        choices=[*TRACKERS, "none"],
        group=TRACKING,
    )
    project: str | None = flag(
        None,
        "wandb and trackio: name of the project; unset: WANDB_PROJECT (wandb), or dschat.",
    )
    run_name: str | None = flag(
        None, "wandb and trackio: name of the run; unset: that of the output folder."
    )
    enable_tensorboard: bool = flag(False, "The same as --report_to tensorboard.")
    tensorboard_path: str | None = flag(
        None, "Folder for TensorBoard's logs; unset: a folder 'tensorboard' in output_dir."
    )

    @property
    def trackers(self) -> list[str]:
        """The names in `TRACKERS` that metrics go to."""
        asked = {*(self.report_to or []), *["tensorboard"] * self.enable_tensorboard}
        return [name for name in TRACKERS if name in asked]

    def board_folder(self, output_dir: str | Path) -> str | None:
        """Where TensorBoard's logs go; None: there are none."""
        if "tensorboard" not in self.trackers:
            return None
        return self.tensorboard_path or str(Path(output_dir) / "tensorboard")

    def validate_tracking(self) -> None:
        """Refuse what contradicts itself, has no effect, or needs a package that is not there.

        Raises:
            UserError: says what to install, or what to remove.
        """
        flag, trackers = self.flag, self.trackers
        asked = flag("report_to")
        require(
            "none" not in (self.report_to or []) or (len(self.report_to or []) == 1),
            f"{asked} {' '.join(self.report_to or [])}: none stands alone. Remove one of them.",
        )
        require(
            self.report_to != ["none"] or not trackers,
            f"{asked} none and {flag('enable_tensorboard')} contradict each other. Give one of "
            "them.",
        )
        require(
            "tensorboard" in trackers or self.tensorboard_path is None,
            f"{flag('tensorboard_path')} has an effect only with {flag('enable_tensorboard')} or "
            f"{asked} tensorboard; add one of these flags.",
        )
        for name in ("project", "run_name"):
            require(
                getattr(self, name) is None or not WITH_PROJECTS.isdisjoint(trackers),
                f"{flag(name)} {getattr(self, name)} is for wandb and trackio: add {asked} wandb, "
                "or remove it.",
            )
        for name in trackers:
            require(
                importlib.util.find_spec(name) is not None,
                f"{asked} {name} needs the package {name}, which is not installed: "
                f"pip install {name}, or leave {name} out.",
            )

    def project_of(self, tracker: str) -> str:
        """The project that a tracker is told."""
        own = os.environ.get("WANDB_PROJECT") if tracker == "wandb" else None
        return self.project or own or DEFAULT_PROJECT
