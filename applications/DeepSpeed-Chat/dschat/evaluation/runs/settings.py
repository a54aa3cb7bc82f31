"""What of a run's settings decides its results, and what tells several of them apart in words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dschat.evaluation.runs.reading import Run

# The seed, where things are written, how often they are, what is shown and measured aside.
NOT_COMPARED = {
    "seed",
    "output_dir",
    "model_out",
    "data_output_path",
    "tensorboard_path",
    "enable_tensorboard",
    "report_to",
    "project",
    "run_name",
    "save_adapter",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "local_rank",
    "save_steps",
    "checkpoint_steps",
    "checkpoint_keep",
    "resume_from_checkpoint",
    "eval_steps",
    "eval_interval",
    "eval_iters",
    "eval_samples",
    "eval_batch_size",
    "per_device_eval_batch_size",
    "pass_k",
    "print_answers",
    "print_answers_interval",
    "print_loss",
}
PATHS = {
    "data_path",
    "sft_only_data_path",
    "dataset",
    "model",
    "model_name_or_path",
    "actor_model_name_or_path",
    "critic_model_name_or_path",
    "ref_a",
    "ref_b",
    "refs",
    "rm_name",
    "deepspeed_config",
}
SAID_BY_THE_PENALTY = ("f_div", "transport", "kl_type", "regularizer", "--penalty")
PATH_PARTS = 3  # of a path are compared: runs may have been made in different places
PENALTY = "penalty"
PENALTY_NAMES = {
    "kl": "KL",
    "rkl": "KL",
    "fkl": "forward KL",
    "js": "JS",
    "alpha": "α-divergence",
    "tv": "total variation",
    "chi": "χ²",
    "wasserstein": "Wasserstein",
    "sinkhorn_divergence": "Sinkhorn",
}
COEFFICIENTS = ("kl_ctl", "gamma")  # the first that a run has; with kl_ctl, gamma is the discount
MOST_SETTINGS_TRIED = 4


def coefficient_name(run: Run) -> str | None:
    """The setting that is the penalty's coefficient, if the run has a penalty."""
    return next((name for name in COEFFICIENTS if name in (run.settings or {})), None)


def coefficient(run: Run) -> float | None:
    """The penalty's coefficient; None of a run without a penalty or without config.yaml."""
    name = coefficient_name(run)
    value = (run.settings or {}).get(name) if name else None
    return float(value) if isinstance(value, (int, float)) else None


def penalty_name(run: Run) -> str | None:
    """In words, such as "KL" or "JS, several references"."""
    name = run.facts.get("penalty")
    if not isinstance(name, str):
        return None
    for prefix, suffix in (
        ("multi_reference_", ", several references"),
        ("mixture_reference_", ", mixture of references"),
    ):
        if name.startswith(prefix):
            inner = name.removeprefix(prefix)
            return PENALTY_NAMES.get(inner, inner) + suffix
    return PENALTY_NAMES.get(name, name)


def compared_settings(run: Run) -> dict[str, str]:
    """The settings that two runs must share to differ in their seed only, as texts.

    A path counts by its last parts, and "seed2" or "s2" in it, of a run with that seed, as any
    seed: seed 2 of a pipeline may start from the models of that pipeline's seed 2. The number of
    ranks counts: batch sizes are given per rank. A run without config.yaml has its own folder as
    its only setting.
    """
    if run.settings is None:
        return {"run": str(run.folder)}
    found: dict[str, Any] = {}
    if penalty_name(run) is not None:
        found[PENALTY] = penalty_name(run)
    for name, value in run.settings.items():
        if name in NOT_COMPARED:
            continue
        if name in PATHS:
            value = _masked(value, run.settings.get("seed"))
        # The flag of that name says less than what was made of it.
        found[name if name != PENALTY else "--penalty"] = value
    if "world_size" in run.facts:
        found["ranks"] = run.facts["world_size"]
    return {name: _text(value) for name, value in found.items()}


def _masked(value: Any, seed: Any) -> Any:
    if isinstance(value, list):
        return [_masked(item, seed) for item in value]
    if not isinstance(value, str):
        return value
    end = "/".join(value.rstrip("/").split("/")[-PATH_PARTS:])
    # The number alone may be another one: seed 1 and the model llama-1b.
    return re.sub(rf"(?i)(?<![a-z])(s|seed)[-_=]?{seed}(?!\d)", r"\1*", end)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the settings that are not the same for all, those first that say most."""
    names = {name for each in settings for name in each}
    found = [n for n in names if len({each.get(n) for each in settings}) > 1]
    first = [PENALTY, *COEFFICIENTS, "algorithm"]

    def order(name: str) -> tuple[bool, int, str]:
        only_some_have_it = any(name not in each for each in settings)
        place = first.index(name) if name in first else len(first)
        return (only_some_have_it and name not in first, place, name)

    return sorted(found, key=order)


def labels(settings: Sequence[Mapping[str, str]], always: Sequence[str] = ()) -> list[str]:
    """A label for each, of the fewest settings that tell all apart.

    Args:
        settings: different ones.
        always: settings that a label names where they are known, differing or not.
    """
    names = differing(settings)
    chosen = _fewest(settings, [n for n in names if n not in always], always)
    return [_label(each, [*always, *chosen]) for each in settings]


def _fewest(
    settings: Sequence[Mapping[str, str]], names: Sequence[str], always: Sequence[str]
) -> Sequence[str]:
    """The fewest of the names that, with those that are always shown, tell all apart."""
    for size in range(min(len(names), MOST_SETTINGS_TRIED) + 1):
        for chosen in itertools.combinations(names, size):
            shown = {_label(each, [*always, *chosen]) for each in settings}
            if len(shown) == len(settings) and "" not in shown:
                return chosen
    return names


def _label(settings: Mapping[str, str], names: Sequence[str]) -> str:
    # A penalty and a folder speak for themselves.
    parts = [
        settings[n] if n in (PENALTY, "run") else f"{n} {settings[n]}"
        for n in (*names, "run")
        if n in settings
    ]
    return ", ".join(dict.fromkeys(parts))
