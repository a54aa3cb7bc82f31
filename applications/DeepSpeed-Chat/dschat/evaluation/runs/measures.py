"""What is drawn of a run: its metrics, and how far the policy has gone from its reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dschat.errors import UserError
from dschat.evaluation.runs.reading import Run
from dschat.evaluation.runs.settings import compared_settings, penalty_name

KL, KL_SAMPLED, OWN = "kl", "kl_sampled", "own"
OWN_METRIC = "divergence_per_response"
# Metrics that mean what the run's own penalty is.
OF_THE_PENALTY = ("divergence", "token_penalty", "penalised_reward", "penalty/")
COMMON_PENALTY_METRICS = ("penalty/log_ratio",)
# What of the settings says which divergence it is.
GROUND_SETTINGS = (
    "cost_type",
    "cost_components",
    "cost_power",
    "cost_saturation",
    "embedding",
    "permute_embeddings",
    "gaussian_perturb",
)
DIVERGENCE_SETTINGS = {
    "KL": ("kl_estimator",),
    "α-divergence": ("f_div_alpha",),
    "Wasserstein": ("epsilon", "cost_dim", "top_k", *GROUND_SETTINGS),
    "Sinkhorn": ("epsilon", "top_k", *GROUND_SETTINGS),
}
REFERENCE_SETTINGS = ("refs", "ref_a", "ref_b", "ref_weights", "alpha", "beta")

Value = Callable[[dict[str, Any]], float | None]


@dataclass(frozen=True)
class Measure:
    """A number of each step.

    Attributes:
        name: in the table of numbers.
        title: above its picture.
        key: the metric without which a row is not about it.
        value: of a row of metrics; None where the row lacks it or it was not finite.
        of: whether a run has it.
    """

    name: str
    title: str
    key: str
    value: Value
    of: Callable[[Run], bool]

    def course(self, run: Run) -> dict[int, float]:
        """Values by step; NaN where it was logged and not finite."""
        values = {row["step"]: self.value(row) for row in run.rows if self.key in row}
        return {step: math.nan if v is None else float(v) for step, v in values.items()}


def logged(name: str, title: str | None = None) -> Measure:
    """A metric as it is in metrics.jsonl."""
    return Measure(name, title or name, name, lambda row: row.get(name), lambda run: run.has(name))


def _log_ratio_per_response(row: dict[str, Any]) -> float | None:
    ratio, length = row.get("log_ratio"), row.get("response_length")
    return None if ratio is None or length is None else ratio * length


def measures_kl(run: Run) -> bool:
    """Whether the run's divergence is KL from its one reference, exact at every token."""
    settings = run.settings or {}
    estimator = settings.get("kl_estimator", "exact")
    exact = estimator == "exact" or bool(settings.get("f_div_low_var"))
    return penalty_name(run) == "KL" and exact and run.has(OWN_METRIC)


EXACT_KL = Measure(
    KL,
    "KL(policy ‖ reference), nats per response, exact at every token",
    OWN_METRIC,
    lambda row: row.get(OWN_METRIC),
    measures_kl,
)
SAMPLED_KL = Measure(
    KL_SAMPLED,
    "log π/ρ of the sampled responses, nats (estimates KL)",
    "log_ratio",
    _log_ratio_per_response,
    lambda run: run.has("log_ratio") and run.has("response_length"),
)


def own_divergence(run: Run) -> str:
    """Names the divergence that the run was held by, with what it depends on."""
    name, settings = penalty_name(run), compared_settings(run)
    if name is None:
        return f"unknown penalty of {run.name}"
    first, *rest = name.split(", ")
    parts = [*DIVERGENCE_SETTINGS.get(first, ()), *(REFERENCE_SETTINGS if rest else ())]
    known = [f"{n} {settings[n]}" for n in parts if settings.get(n, "None") != "None"]
    return ", ".join([name, *known])


def shared_measure(runs: Sequence[Run], name: str | None) -> Measure:
    """The horizontal axis of the frontier: one and the same measure for all runs.

    Args:
        name: `kl`, `kl_sampled`, `own`, a metric's name, or None: the first of `kl` and
            `kl_sampled` that all runs have.

    Raises:
        UserError: the runs do not share it; the message says what each has.
    """
    if name in (None, KL, KL_SAMPLED):
        for measure in (EXACT_KL, SAMPLED_KL):
            if name in (None, measure.name) and all(measure.of(run) for run in runs):
                several = any("references" in (penalty_name(run) or "") for run in runs)
                title = measure.title + ", of the first reference" * several
                return replace(measure, title=title)
        what = "a divergence" if name is None else f"--divergence {name}"
        raise UserError(
            f"The runs do not share {what}: {_what_each_has(runs)}. Give fewer runs, or "
            "--divergence NAME with what all of them have."
        )
    metric = OWN_METRIC if name == OWN else str(name)
    for run in runs:
        if not run.has(metric):
            raise UserError(
                f"--divergence {name}: {run.name} logs no such number. "
                f"All runs: {_what_each_has(runs)}."
            )
    common = metric.startswith(COMMON_PENALTY_METRICS)
    kinds = {run.name: own_divergence(run) for run in runs}
    if metric.startswith(OF_THE_PENALTY) and not common and len(set(kinds.values())) > 1:
        each = "; ".join(f"{run}: {kind}" for run, kind in kinds.items())
        raise UserError(
            f"--divergence {name} is another thing for each penalty: {each}. Give kl_sampled, "
            "which all online runs log."
        )
    title = f"{next(iter(kinds.values()))}, per response" if name == OWN else metric
    return logged(metric, title)


def _what_each_has(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        has = [m.name for m in (EXACT_KL, SAMPLED_KL) if m.of(run)]
        if run.has(OWN_METRIC):
            has.append(f"{OWN} ({own_divergence(run)})")
        parts.append(f"{run.name} has {', '.join(has) or 'none'}")
    return "; ".join(parts)


TITLES = {
    "reward": "reward",
    "response_length": "tokens per response",
    "policy_loss": "loss of the policy",
    "value_loss": "loss of the critic",
    "reference_sample_loss": "loss on the references' samples",
    "reward/success": "share of successful responses",
    "eval/accuracy": "greedy accuracy on the test part",
    "loss": "loss",
    "eval_loss": "loss on held-out data",
    "eval_perplexity": "perplexity on held-out data",
    "accuracy": "share of pairs ranked right",
    "eval_accuracy": "share of held-out pairs ranked right",
    "rewards/margins": "margin of implicit rewards",
    "eval_rewards/margins": "margin of implicit rewards, held-out",
    "rewards/accuracies": "share of pairs ranked right",
    "eval_rewards/accuracies": "share of held-out pairs ranked right",
}
BEFORE_DIVERGENCES = 1


def drawn_measures(runs: Sequence[Run]) -> list[Measure]:
    """What the runs log of rewards, divergences, lengths and losses, in the order of the panels.

    A divergence that depends on the penalty has a panel for each penalty.
    """
    plain = [logged(name, title) for name, title in TITLES.items()]
    found = [*plain[:BEFORE_DIVERGENCES], EXACT_KL, SAMPLED_KL]
    kinds = list(dict.fromkeys(own_divergence(run) for run in runs))
    for kind in kinds:
        short = kind.split(",")[0]
        alike = [other for other in kinds if other.split(",")[0] == short]
        of = [run for run in runs if own_divergence(run) == kind]
        found += _divergences_of(kind, short if len(alike) == 1 else kind, of)
    names = sorted(
        {n for run in runs for row in run.rows for n in row if n.startswith("log_ratio/")}
    )
    found += [logged(n, f"log π/ρ of the data, reference {n.rsplit('_', 1)[-1]}") for n in names]
    return [m for m in [*found, *plain[BEFORE_DIVERGENCES:]] if any(m.of(run) for run in runs)]


def _divergences_of(kind: str, short: str, runs: Sequence[Run]) -> list[Measure]:
    """The divergences of runs with one penalty: their own, and that from each reference."""
    names = {n for run in runs for row in run.rows for n in row}
    each = sorted(n for n in names if n.startswith("penalty/divergence/ref_"))
    folders = {run.folder for run in runs}

    def measure(name: str, title: str) -> Measure:
        return Measure(
            f"{name} ({kind})",
            title,
            name,
            lambda row: row.get(name),
            lambda run: run.folder in folders and run.has(name),
        )

    own = [measure(OWN_METRIC, f"{short} divergence per response")]
    if all(measures_kl(run) for run in runs):
        own = []  # there is a panel of it
    return own + [
        measure(n, f"{short} from reference {n.rsplit('_', 1)[-1]}, per token") for n in each
    ]
