"""The flags of references that move during training: see docs/regularisers.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.references import REFERENCES
from dschat.settings.regularizers.published import has_references

READS = {
    "fixed": (),
    "ema": ("reference_decay",),
    "reset": ("reference_interval",),
    "interpolate": ("reference_interval", "reference_mix"),
}
"""The schedules, each with the flags that it reads; all of them must be given."""


@dataclass
class ReferenceScheduleFlags(Settings):
    """Whether and how the reference follows the policy."""

    reference_schedule: str = flag(
        "fixed",
        "What becomes of the reference during training. fixed: it stays what it is. ema: after "
        "every iteration it is --reference_decay times itself plus the rest of the policy "
        "(EMA-PG). reset: every --reference_interval iterations it becomes the policy, and the "
        "actor's AdamW forgets its moments (ProRL). interpolate: every --reference_interval "
        "iterations it goes --reference_mix of the way to the policy (TR-DPO's soft update). One "
        "reference of the policy's own architecture moves, no other.",
        choices=list(READS),
        group=REFERENCES,
    )
    reference_decay: float | None = flag(
        None, "ema: weight of the reference in its average with the policy, in (0, 1)."
    )
    reference_interval: int | None = flag(
        None, "reset, interpolate: iterations from one move of the reference to the next."
    )
    reference_mix: float | None = flag(
        None,
        "interpolate: weight of the policy in a move, in (0, 1]; 1 is a reset that leaves AdamW "
        "as it is.",
    )


def check_reference_schedule(config: Any) -> None:
    """Refuse what does not fit; raises `UserError`.

    Args:
        config: an `OnlineConfig`.
    """
    flag, schedule = config.flag, config.reference_schedule
    asked = f"{flag('reference_schedule')} {schedule}"
    for name in dict.fromkeys(n for names in READS.values() for n in names):
        value = getattr(config, name)
        readers = " or ".join(s for s, names in READS.items() if name in names)
        if name in READS[schedule]:
            require(value is not None, f"{asked} needs {flag(name)}. Add it.")
        else:
            require(
                value is None,
                f"{flag(name)} {value} belongs to {flag('reference_schedule')} {readers}, and the "
                f"schedule is {schedule}. Remove the flag, or change the schedule.",
            )
    decay, interval, mix = (
        getattr(config, n) for n in ("reference_decay", "reference_interval", "reference_mix")
    )
    for holds, message in (
        (
            decay is None or 0 < decay < 1,
            f"{flag('reference_decay')} {decay}: expected a number above 0 and below 1.",
        ),
        (
            interval is None or interval >= 1,
            f"{flag('reference_interval')} {interval}: expected 1 or more iterations.",
        ),
        (
            mix is None or 0 < mix <= 1,
            f"{flag('reference_mix')} {mix}: expected a number above 0, at most 1.",
        ),
    ):
        require(holds, message)
    if schedule == "fixed":
        return
    references = config.references()
    for holds, message in (
        (
            has_references(config),
            f"{asked}: {flag('regularizer')} {config.regularizer} has no reference. Remove the "
            "schedule.",
        ),
        (
            len(references) <= 1,
            f"{asked} with {len(references)} references: which of them would move is not said. "
            f"Give a single one, or {flag('reference_schedule')} fixed.",
        ),
        (
            not config.from_samples,
            f"{asked}: --fkl_estimator samples draws from the reference once, before training, and "
            "a moved reference would have said other things. Use --fkl_estimator per_state.",
        ),
        (
            config.reference_residency != "one",
            f"{asked}: {flag('reference_residency')} one loads the reference from disk for every "
            "scoring, where it does not move. Use all or cpu.",
        ),
        (
            config.reference_quantization is None,
            f"{asked}: quantised weights ({flag('reference_quantization')}) cannot be averaged. "
            "Remove one of the two flags.",
        ),
    ):
        require(holds, message)
