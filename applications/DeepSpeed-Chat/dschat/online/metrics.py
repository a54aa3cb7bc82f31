"""What an iteration logs: means over all ranks' responses and tokens, and warnings from them."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import record_function
from tqdm import tqdm

from dschat.regularization import PolicyRegularizer
from dschat.regularization.diagnosis import sees_no_distances
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.runtime.run_files import MetricsLog


def iteration_metrics(
    experiences: list[Experience],
    metric_sums: dict[str, float],
    coefficient: float,
    device: torch.device,
    group_size: int = 1,
) -> dict[str, float]:
    """Means over the responses that have a token, and over their tokens, of all ranks.

    Args:
        metric_sums: the regularizer's metrics (`penalty/...`) as sums over active positions and
            `positions`, their number; and the sums of `dschat.scoring.scorer.Rewards`.
        coefficient: of the penalty.
        group_size: responses to a prompt, neighbours by `rollout.indices`.

    Returns:
        `reward` (what the reward function said) with its std, `penalised_reward`,
        `divergence` per token and `divergence_per_response`, `token_penalty`, `log_ratio`
        (log pi - log rho of the sampled tokens), `entropy` (of pi, in nats, per token), lengths,
        shares and counts; of each reward by name `reward/NAME`, unweighted, `reward/NAME_std` and
        `reward/NAME_applies`, see `_of_rewards`; `padding_share`, of the positions of the
        micro-batches, prompts and responses, those that hold no token; `equal_groups`, of the
        groups (of 2 or more), those whose rewards are all equal, which therefore say nothing about
        what is better. The divergence is NaN (null in metrics.jsonl) where the published
        Wasserstein penalty sees no distances: its plan then moves nothing.
    """
    sums = _local_sums(experiences)
    # A rank whose responses are all dropped has no metrics of the penalty.
    every = set().union(*distributed.gather_objects(set(metric_sums)))
    names = sorted(every - {"positions"})
    keys = [*sums, "positions", *names]
    own = [metric_sums.get(name, 0.0) for name in ("positions", *names)]
    local = [*sums.values(), *own]
    total = dict(zip(keys, distributed.sum_over_ranks(local, device), strict=True))
    sampled = total["responses"] + total["dropped"]
    positions = max(total["positions"], 1.0)
    responses, tokens = max(total["responses"], 1.0), max(total["tokens"], 1.0)
    mean = total["reward"] / responses
    variance = max(total["reward_squared"] / responses - mean**2, 0.0)
    groups = {}
    if group_size > 1:
        groups["equal_groups"] = _equal_groups(experiences, round(sampled), group_size, device)
    found = {
        "reward": mean,
        "reward_std": math.sqrt(variance),
        **groups,
        **(_of_penalty(total, coefficient) if experiences[0].divergence is not None else {}),
        **({"entropy": total["entropy"] / tokens} if experiences[0].entropy is not None else {}),
        **({"value": total["value"] / tokens} if experiences[0].values is not None else {}),
        "response_length": total["tokens"] / responses,
        "ended": total["ended"] / responses,
        "responses": total["responses"],
        "response_tokens": total["tokens"],
        "dropped": total["dropped"],
        "padding_share": total["padding"] / total["positions_of_batches"],
        **{n: total[n] / positions for n in names if n.startswith("penalty/")},
        **_of_rewards(total),
    }
    if sees_no_distances(found):
        found |= {"divergence": math.nan, "divergence_per_response": math.nan}
    return found


def _of_rewards(total: Mapping[str, float]) -> dict[str, float]:
    """Each reward's mean, standard deviation and share of the responses that it applies to.

    Mean and deviation (of the population, not of a sample) are over those responses, of all ranks,
    those without a token included. Where there are none, they are not there. Of a part that is no
    reward of its own there is the mean.
    """
    found = {}
    for key in total:
        kind, _, name = key.partition("/")
        if kind != "reward" or not name:
            continue
        count, square = total[f"reward_count/{name}"], total.get(f"reward_square/{name}")
        if count:
            mean = found[key] = total[key] / count
        if square is None:
            continue
        if count:
            variance = square / count - mean**2
            found[f"{key}_std"] = math.sqrt(max(variance, 0.0))
        found[f"{key}_applies"] = count / total["reward_responses"]
    return found


def _of_penalty(total: Mapping[str, float], coefficient: float) -> dict[str, float]:
    """What there is where the policy is compared with a reference, from sums over all ranks."""
    responses, tokens = max(total["responses"], 1.0), max(total["tokens"], 1.0)
    mean = total["reward"] / responses
    return {
        "penalised_reward": mean - coefficient * total["token_penalty"] / responses,
        "divergence": total["divergence"] / tokens,
        "divergence_per_response": total["divergence"] / responses,
        "token_penalty": total["token_penalty"] / tokens,
        "log_ratio": total["log_ratio"] / tokens,
    }


def _equal_groups(
    experiences: list[Experience], responses: int, group_size: int, device: torch.device
) -> float:
    """The share of all ranks' groups in which every reward is the same."""
    rewards = torch.zeros(responses, dtype=torch.float64, device=device)
    for e in experiences:
        rewards[e.rollout.indices] = e.scores.double()
    groups = distributed.all_reduce(rewards).view(-1, group_size)
    return float((groups == groups[:, :1]).all(dim=1).double().mean())


def _local_sums(experiences: list[Experience]) -> dict[str, float]:
    sums = dict.fromkeys(
        (
            "responses",
            "dropped",
            "tokens",
            "reward",
            "reward_squared",
            "ended",
            "divergence",
            "token_penalty",
            "log_ratio",
            "entropy",
            "value",
            "padding",
            "positions_of_batches",
        ),
        0.0,
    )
    for e in experiences:
        kept = ~e.rollout.dropped
        mask = e.rollout.response_mask
        scores = e.scores[kept].double()
        sums["responses"] += float(kept.sum())
        sums["dropped"] += float(e.rollout.dropped.sum())
        sums["tokens"] += float(mask.sum())
        sums["reward"] += float(scores.sum())
        sums["reward_squared"] += float(scores.square().sum())
        sums["padding"] += float((e.rollout.attention_mask == 0).sum())
        sums["positions_of_batches"] += e.rollout.attention_mask.numel()
        sums["ended"] += float((e.rollout.ended & kept).sum())
        for name, values in (
            ("divergence", e.divergence),
            ("token_penalty", e.token_penalty),
            ("log_ratio", None if (r := e.reference_logprobs) is None else e.logprobs - r),
            ("entropy", e.entropy),
            ("value", e.values),
        ):
            if values is not None:
                sums[name] += float(values.double()[mask].sum())
    return sums


PATIENCE = 5
"""Iterations in a row without any difference before a warning."""


class RewardVariation:
    """Counts iterations in a row in which no reward differed from those it is compared with."""

    def __init__(self) -> None:
        self.constant = 0

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """A warning once nothing has varied for `PATIENCE` iterations; once for each such time.

        Args:
            metrics: of an iteration (`iteration_metrics`); those of a skipped one count for
                nothing.
        """
        if "reward" not in metrics:
            return None
        grouped = "equal_groups" in metrics
        rounding = 1e-6 * (1 + abs(metrics["reward"]))
        equal = metrics["equal_groups"] == 1 if grouped else metrics["reward_std"] < rounding
        self.constant = self.constant + 1 if equal else 0
        if self.constant != PATIENCE:
            return None
        among = "within every group" if grouped else "of all responses"
        found = [name for name in metrics if name.startswith("reward/")]
        found = [name for name in found if not name.endswith(("_std", "_applies"))]
        parts = ", ".join(f"{name} {metrics[name]:.3g}" for name in found)
        return (
            f"WARNING: for {PATIENCE} iterations the rewards {among} were equal (now "
            f"{metrics['reward']:.4g}): the reward teaches nothing. Read responses with "
            "--print_answers; take prompts that the model gets right now and then, more responses "
            "a prompt, or a model that knows the format."
            + (f" Parts of the reward: {parts}." if parts else "")
        )


def progress_line(metrics: Mapping[str, float]) -> str:
    """What the progress bar shows."""
    if "reward" not in metrics:
        return f"skipped ({metrics['bad_steps']:.0f} so far)"
    divergence = ""
    if "divergence" in metrics:
        divergence = f"divergence {metrics['divergence']:.4f}, "
        if math.isnan(metrics["divergence"]):
            divergence = f"log-ratio {metrics['log_ratio']:.4f}, "
    return (
        f"reward {metrics['reward']:.3f}, {divergence}"
        f"length {metrics['response_length']:.1f}, {metrics['time/tokens_per_s']:.0f} tokens/s"
        + (f", dropped {metrics['dropped']:.0f}" if metrics["dropped"] else "")
    )


class Report:
    """Logs iterations, and shows them to whoever watches the run.

    Args:
        log: where metrics go.
        name: of the progress bar.
        regularizer, coefficient: the penalty, which may have something to say after iteration 1.
    """

    def __init__(
        self, log: MetricsLog, name: str, regularizer: PolicyRegularizer, coefficient: float
    ) -> None:
        self.log, self.name = log, name
        self.regularizer, self.coefficient = regularizer, coefficient
        self.variation = RewardVariation()
        self._bar: Any = None

    @contextmanager
    def bar(self, total: int, done: int) -> Iterator[None]:
        """A progress bar on the main rank, of iterations."""
        silent = not distributed.is_main()
        options: dict[str, Any] = {"desc": self.name, "disable": silent, "mininterval": 0.5}
        with tqdm(total=total, initial=done, **options) as self._bar:
            yield

    def iteration(self, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an iteration, and what the penalty and the rewards say of it."""
        self.log.write(metrics)
        if metrics["iteration"] == 1 and not metrics["skipped"]:
            words = self.regularizer.first_report(metrics, self.coefficient)
            if words:
                distributed.log_main(words)
        if warning := self.variation.warning(metrics):
            distributed.log_main(warning)
        self._bar.set_postfix_str(progress_line(metrics), refresh=False)
        self._bar.update()


class Clock:
    """Seconds of an iteration by phase; a profiler's trace shows the phases too."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to those of the phase."""
        began = time.perf_counter()
        with record_function(name):
            yield
        self.seconds[name] += time.perf_counter() - began

    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.began

    def metrics(self, tokens: float) -> dict[str, float]:
        """For the log: seconds by phase and in all, and `tokens` per second."""
        total = self.total()
        phases = {f"time/{name}_s": value for name, value in self.seconds.items()}
        return {**phases, "time/total_s": total, "time/tokens_per_s": tokens / total}
