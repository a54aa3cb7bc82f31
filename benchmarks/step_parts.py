"""What each shortcut of a GRPO step saves: steps with and without it, in turn, in one process.

    OMP_NUM_THREADS=1 python benchmarks/step_parts.py --sizes tiny 20m
    OMP_NUM_THREADS=1 python benchmarks/step_parts.py --uneven

CPU seconds (medians), so that a machine with other work will do. "through transformers" generates
by `model.generate`; "rows in full" takes every response's prompt through policy and reference
again, in scoring and in the update; "states of sampling reused" is --reuse_rollout_logprobs. With
--uneven: prompts and responses of an eighth of their length up to all of it, in four micro-batches
of one optimiser step, with rows of like length together or as they were dealt; the responses are
drawn at random, not generated.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dschat.online import loop
from dschat.online.run import Extras, build_trainer
from dschat.online.setup import start
from dschat.rollout import generation
from dschat.rollout.sampler import Sampler
from dschat.settings.online import online_config
from step_ours import Phases, never_end, settings, watch
from step_sizes import SIZES, score_text, write_models

VARIANTS = {
    "both shortcuts": (True, True, False),
    "both, states of sampling reused": (True, True, True),
    "generation through transformers": (False, True, False),
    "rows in full": (True, False, False),
    "neither": (False, False, False),
}
PHASES = ("generate", "score", "penalty", "actor update")
UNEVEN = ("padding share", "score", "penalty", "actor update", "critic update")


def measure(name: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """CPU seconds by phase of each round of each variant."""
    size = SIZES[name]
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    own_decoding = generation.has_plain_cache
    with tempfile.TemporaryDirectory() as temporary:
        write_models(size, Path(temporary))
        given = settings(size, temporary, f"{temporary}/out", "grpo", steps=1)
        config = online_config(**{**given, "save_steps": 0})
        trainer = build_trainer(config, *start(config), Extras(reward=score_text))
        never_end(trainer)
        phases = Phases(time.process_time)
        watch(trainer, phases)
        prompts = trainer.prompts[: size.responses // size.group]
        policies: list[Any] = [trainer.actor.module, trainer.scorer.penalty.references[0].policy]
        for number in range(rounds + 1):
            for variant, (decodes, shares, reuses) in VARIANTS.items():
                generation.has_plain_cache = own_decoding if decodes else lambda _: False
                for policy in policies:
                    policy.plain_cache = shares
                trainer.sampler = replace(trainer.sampler, keep_states=reuses)
                phases.seconds.clear()
                trainer.run_iteration(prompts)
                if number:  # the first one warms up
                    found[variant].append(dict(phases.seconds))
        generation.has_plain_cache = own_decoding
        trainer.report.log.close()
    return found


def uneven_responses(sampler: Any, engine: Any, prompts: Any, uniform: Any, *_: Any) -> Any:
    """Random tokens in the place of `Sampler.sample`, each response of a length of its own."""
    longest, vocabulary = sampler.settings.max_new_tokens, sampler.settings.vocabulary_size
    found = []
    for row in uniform.tolist():
        length = int((1 + 7 * row[0]) / 8 * longest)
        found.append([3 + int(u * (vocabulary - 3)) for u in row[:length]])
    return found


def measure_uneven(name: str, algorithm: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """The same with rows by length and as they were dealt, and the share of padding."""
    size = SIZES[name]
    by_length = "rows by length"
    found: dict[str, list[dict[str, float]]] = {by_length: [], "rows as dealt": []}
    with tempfile.TemporaryDirectory() as temporary:
        write_models(size, Path(temporary))
        given = settings(size, temporary, f"{temporary}/out", algorithm, steps=2)
        cut = {
            "per_device_training_batch_size": size.responses // 4,
            "gradient_accumulation_steps": 4,
        }
        config = online_config(**{**given, **cut, "save_steps": 0})
        trainer = build_trainer(config, *start(config), Extras(reward=score_text))
        phases = Phases(time.process_time)
        watch(trainer, phases)
        draw = random.Random(1)
        prompts = [
            replace(p, ids=p.ids[: draw.randint(size.prompt // 8, size.prompt)])
            for p in trainer.prompts[: size.responses // trainer.group_size]
        ]
        plain, arranged = Sampler.sample, loop.steps_by_length
        Sampler.sample = uneven_responses
        for number in range(rounds + 1):
            for variant, rows in found.items():
                trainer.iteration = number  # the same lengths for both
                dealt = variant != by_length
                loop.steps_by_length = (lambda rollouts, *_: rollouts) if dealt else arranged
                phases.seconds.clear()
                metrics = trainer.run_iteration(prompts)
                if number:
                    padding = {"padding share": metrics["padding_share"]}
                    rows.append({**phases.seconds, **padding})
        Sampler.sample = plain
        trainer.report.log.close()
    return found


def main() -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uneven", action="store_true", help="micro-batches by length instead")
    options = parser.parse_args()
    for name in options.sizes:
        if options.uneven:
            for algorithm in ("grpo", "ppo"):
                found = measure_uneven(name, algorithm, options.rounds)
                show(f"{name}, {algorithm}", found, UNEVEN)
            continue
        show(name, measure(name, options.rounds), PHASES)


def show(title: str, found: dict[str, list[dict[str, float]]], columns: Sequence[str]) -> None:
    """Print the medians and their sum."""
    heading = f"{title}, CPU seconds"
    print(f"\n{heading:34}" + "".join(f"{column:>15}" for column in columns) + "    step")
    for variant, rows in found.items():
        cells = [statistics.median(row.get(c, 0.0) for row in rows) for c in columns]
        timed = [sum(v for c, v in row.items() if c != "padding share") for row in rows]
        line = "".join(f"{cell:15.3f}" for cell in cells)
        print(f"  {variant:32}{line}{statistics.median(timed):8.3f}", flush=True)


if __name__ == "__main__":
    main()
