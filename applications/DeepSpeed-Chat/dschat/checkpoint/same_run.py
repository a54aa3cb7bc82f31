"""Whether a run that goes on is the run that was interrupted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from dschat.errors import UserError
from dschat.runtime import distributed
from dschat.runtime.run_files import SECRET_NAME, library_versions

if TYPE_CHECKING:
    from dschat.checkpoint.resumable import Checkpoint

PLACE = {
    "output_dir",
    "data_output_path",
    "tensorboard_path",
    "enable_tensorboard",
    "local_rank",
    "deepspeed",
    "checkpoint_steps",
    "checkpoint_keep",
    "resume_from_checkpoint",
    "save_steps",
    "print_answers",
    "print_answers_interval",
    "print_loss",
    "preprocessing_num_workers",
    "reward_workers",
}
"""Settings that say where and how a run shows itself: another value changes no result."""


def plain_settings(config: Any) -> dict[str, Any]:
    """A configuration's values as JSON keeps them, without secrets."""
    values = dataclasses.asdict(config)
    kept = {name: value for name, value in values.items() if not SECRET_NAME.search(name)}
    return json.loads(json.dumps(kept, default=str))


def check_same_run(
    checkpoint: Checkpoint, config: Any, may_differ: Collection[str] = (), **run: Any
) -> None:
    """Refuse to go on under settings that would make it another run; tell of harmless differences.

    A setting that was left open may be given as what it became: `resolved` among the facts that
    were sealed, as in the run's own config.yaml.

    Args:
        may_differ: names of settings, beside `PLACE`, that change no result in this script.
        run: the facts given to `seal`.

    Raises:
        UserError: every setting that differs, with both values, and the number of ranks.
    """
    now = plain_settings(config)
    old = checkpoint.settings
    resolved = {**old, **checkpoint.run.get("resolved", {})}
    differences = [
        f"--{name} {old.get(name, 'unset')} -> {now.get(name, 'unset')}"
        for name in sorted(now.keys() | old.keys())
        if now.get(name) not in (old.get(name), resolved.get(name))
        and name not in PLACE.union(may_differ)
    ]
    check_same_facts(checkpoint, differences, world_size=distributed.world_size(), **run)
    before = checkpoint.run.get("versions", {})
    for name, version in library_versions().items():
        if before.get(name) != version:
            distributed.log_main(
                f"WARNING: {name} is {version} now and was {before.get(name)}: the resumed run "
                "may differ from an uninterrupted one."
            )


def check_same_facts(checkpoint: Checkpoint, differences: Sequence[str] = (), **run: Any) -> None:
    """Refuse to go on where facts are not those that the checkpoint was sealed with.

    Args:
        differences: what else is known to differ.
        run: facts given to `seal`.

    Raises:
        UserError: names all differences, with both values.
    """
    names = {"world_size": "number of ranks"}
    found = [
        *differences,
        *(
            f"{names.get(name, name.replace('_', ' '))} {checkpoint.run.get(name)} -> {value}"
            for name, value in run.items()
            if checkpoint.run.get(name) != value
        ),
    ]
    if found:
        raise UserError(
            f"{checkpoint.folder} was saved by a run with other settings: {'; '.join(found)}."
            " Going on would be neither that run nor this one. Use the old values, or start anew "
            "in another --output_dir."
        )
