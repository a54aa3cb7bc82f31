"""What each shortcut of a GRPO step saves: steps with and without it, in turn, in one process.

    OMP_NUM_THREADS=1 python benchmarks/step_parts.py --sizes tiny 20m

CPU seconds (medians), so that a machine with other work will do. "through transformers" generates
by `model.generate`; "rows in full" takes every response's prompt through policy and reference
again, in scoring and in the update. "states of sampling reused" is --reuse_rollout_logprobs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from dschat.rollout import generation
from dschat.training.online import Task, build_trainer
from dschat.training.online_setup import start
from dschat.training.penalty_config import DivergenceConfig
from step_ours import Phases, settings, watch
from step_sizes import NEVER, SIZES, score_text, write_models

VARIANTS = {
    "both shortcuts": (True, True, False),
    "both, states of sampling reused": (True, True, True),
    "generation through transformers": (False, True, False),
    "rows in full": (True, False, False),
    "neither": (False, False, False),
}
PHASES = ("generate", "score", "penalty", "actor update")


def measure(name: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """CPU seconds by phase of each round of each variant."""
    size = SIZES[name]
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    own_decoding = generation.has_plain_cache
    with tempfile.TemporaryDirectory() as temporary:
        write_models(size, Path(temporary))
        given = settings(size, temporary, f"{temporary}/out", "grpo", steps=1)
        config = DivergenceConfig(**{**given, "save_steps": 0})
        trainer = build_trainer(config, *start(config), Task(reward=score_text))
        trainer.tokenizer.add_special_tokens({"eos_token": NEVER})
        phases = Phases(time.process_time)
        watch(trainer, phases)
        prompts = trainer.prompts[: size.responses // size.group]
        policies: list[Any] = [trainer.actor.module, trainer.references[0].policy]
        for number in range(rounds + 1):
            for variant, (decodes, shares, reuses) in VARIANTS.items():
                generation.has_plain_cache = own_decoding if decodes else lambda _: False
                for policy in policies:
                    policy.plain_cache = shares
                trainer.config.reuse_rollout_logprobs = reuses
                phases.seconds.clear()
                trainer.run_iteration(prompts)
                if number:  # the first one warms up
                    found[variant].append(dict(phases.seconds))
        generation.has_plain_cache = own_decoding
        trainer.log.close()
    return found


def main() -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name in options.sizes:
        found = measure(name, options.rounds)
        print(f"\n{name}, CPU seconds" + " " * 20 + "".join(f"{p:>14}" for p in PHASES) + "  step")
        for variant, rows in found.items():
            cells = [statistics.median(row.get(p, 0.0) for row in rows) for p in PHASES]
            total = statistics.median(sum(row.values()) for row in rows)
            print(f"  {variant:32}" + "".join(f"{cell:14.3f}" for cell in cells) + f"{total:8.3f}")


if __name__ == "__main__":
    main()
