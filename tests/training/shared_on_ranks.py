"""A program for two ranks: GRPO steps under ZeRO 3 with given responses, prompts shared or not.

    deepspeed --num_accelerators 2 shared_on_ranks.py settings.json out.json

Each case is an iteration with other responses on each rank: for example such that one rank alone
would share its prompts, or needs one pass where the other one needs two.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dschat.models import policy
from dschat.training import distributed, experience_maker
from online_fixtures import make_trainer

END = 1
LONG = [[20, 21, 22, END], [30, 31], [40, 41, 42, 43, 44], [50, END]]
CASES: dict[str, tuple[list[list[int]], list[list[int]], bool]] = {
    "both share": (LONG, LONG[::-1], True),
    "one pass on rank 0": ([[20], [30], [END], [40]], LONG, True),
    "one pass on rank 1": (LONG, [[20], [30], [END], [40]], True),
    "one pass on both": ([[20], [30], [END], [40]], [[21], [31], [END], [41]], True),
    "no token on rank 0": ([[], [], [], []], LONG, True),
    "rank 1 has nothing to share": (LONG, LONG, False),
    "both share again": (LONG[::-1], LONG, True),
}
"""Responses of rank 0 and of rank 1, and whether rank 1's rows have one prompt."""


def run(settings: dict[str, Any], output: str, shares: bool) -> list[dict[str, float]]:
    """The metrics of each case's iteration, and how often prompts were shared."""
    trainer = make_trainer({**settings, "output_dir": output})
    for each in (trainer.actor.module, trainer.references[0].policy):
        each.plain_cache = shares
    rank, rows = distributed.rank(), []
    plain, shared = policy.response_states, []
    policy.response_states = lambda *args, **kw: (shared.append(1), plain(*args, **kw))[1]
    for i, (*responses, alike) in enumerate(CASES.values()):
        given = [list(r) for r in responses[rank]]
        experience_maker.sample_responses = lambda *_, given=given: given
        prompts = trainer.prompts[2 * i : 2 * i + 2]
        if rank == 1 and not alike:
            trainer.sample = partial(with_other_prompts, trainer.sample, trainer.prompts[40:44])
        metrics = trainer.run_iteration(prompts)
        trainer.__dict__.pop("sample", None)
        kept = {name: v for name, v in metrics.items() if not name.startswith("time/")}
        rows.append({**kept, "shared": len(shared)})
        shared.clear()
    policy.response_states = plain
    trainer.log.close()
    return rows


def with_other_prompts(sample: Any, mine: list[Any], batch: list[Any], start: int) -> Any:
    """A generation batch whose last rows are this rank's own."""
    return sample(batch[: -len(mine)] + mine, start)


def main() -> None:
    """Both runs, one after the other; rank 0 writes what they gave."""
    path, output = sys.argv[-2:]  # the launcher puts the rank before them
    settings = json.loads(Path(path).read_text())
    found = [run(settings, f"{output}-{shares}", shares) for shares in (True, False)]
    if distributed.is_main():
        Path(output).write_text(json.dumps(found))
    distributed.shut_down()


if __name__ == "__main__":
    main()
