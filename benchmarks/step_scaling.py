"""How seconds and memory of a GRPO step grow with response length, vocabulary and group size.

    OMP_NUM_THREADS=1 python benchmarks/step_scaling.py --plot assets/step_scaling.png
    OMP_NUM_THREADS=1 python benchmarks/step_scaling.py --clock wall --ranks 2

One size varies at a time around ``BASE``, with a model so narrow that what is not the model's own
arithmetic would show. The step is the trainer's own, scored by a function, under exact reverse KL.
On a CPU its CPU seconds count, so that other work on the machine matters little; with
--clock wall those that pass, waiting for other ranks included, which wants a quiet machine. Several
ranks share the work of one (each has its share of a micro-batch), and the slowest one's seconds and
the largest memory count. Attention is
quadratic in length by nature: over response length a second set of steps has it replaced by one
that looks at nothing but the token itself. The exponent is that of the power law fitted to the last
three sizes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dschat.online.run import Extras, build_trainer
from dschat.online.setup import start
from dschat.runtime import distributed
from dschat.settings.online import online_config
from memory import extra_peak
from step_ours import Phases, never_end, settings, watch
from step_sizes import Size, score_text, write_models

BASE = Size(
    "narrow",
    "llama",
    {
        "vocab_size": 4_000,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    responses=8,
    group=8,
    prompt=64,
    response=32,
)
LENGTHS = (64, 128, 256, 512, 1024, 2048)
VOCABULARIES = (4_000, 16_000, 64_000, 256_000)
GROUPS = (2, 4, 8, 16, 32, 64)
PHASES = ("generate", "score", "actor update", "other")

Points = dict[str, list[tuple[int, float]]]
"""By phase, or "extra peak MiB": (size, value)."""


def no_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """Each token sees itself alone: an attention function of linear cost."""
    return value[:, :, -query.shape[2] :].transpose(1, 2).contiguous(), None


def measure(size: Size, attention: bool = True, clock: str = "cpu") -> dict[str, float]:
    """Seconds by phase and extra peak MiB of an iteration, the most of any rank."""
    with shared_folder() as folder:
        given: dict[str, Any] = {}
        if distributed.is_main():
            write_models(size, folder)
            given = settings(size, str(folder), str(folder / "out"), "grpo", steps=1)
        given = distributed.broadcast_object(given)
        for name in ("per_device_generation_batch_size", "per_device_training_batch_size"):
            given[name] //= distributed.world_size()
        config = online_config(**{**given, "kl_estimator": "exact", "save_steps": 0})
        config.validate()
        trainer = build_trainer(config, *start(config), Extras(reward=score_text))
        never_end(trainer)
        if not attention:
            for policy in (trainer.actor.module, trainer.scorer.penalty.references[0].policy):
                policy.model.set_attn_implementation("no_attention")
        cpu = clock == "cpu" and not torch.cuda.is_available()
        phases = Phases(time.process_time if cpu else time.perf_counter)
        watch(trainer, phases)
        batch = trainer.prompts[: size.responses // size.group]
        metrics, peak = extra_peak(lambda: trainer.run_iteration(batch))
        trainer.report.log.close()
    assert metrics["response_length"] == size.response
    seconds = {name: phases.seconds[name] for name in PHASES}
    seconds["score"] += phases.seconds["penalty"]
    memory = math.nan if peak == "?" else max(1.0, float(peak))
    found = distributed.gather_objects({**seconds, "extra peak MiB": memory})
    return {name: max(row[name] for row in found) for name in found[0]}


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A temporary folder that all ranks of this machine see."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(distributed.broadcast_object(own))
        distributed.gather_objects(None)  # nobody needs it any longer


def exponent(points: list[tuple[int, float]]) -> float:
    """Of the power law fitted to the last three points."""
    sizes, values = zip(*points[-3:], strict=True)
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def over(name: str, sizes: dict[int, Size], clock: str, attention: bool = True) -> Points:
    """Measure along `sizes` and print the table."""
    found: Points = {}
    for number, size in sizes.items():
        for phase, value in measure(size, attention, clock).items():
            found.setdefault(phase, []).append((number, value))
    if not distributed.is_main():
        return found
    print(f"\nover {name}" + "".join(f"{number:>10,}" for number in sizes) + "  exponent")
    for phase, points in found.items():
        digits = 0 if "MiB" in phase else 3
        cells = "".join(f"{value:10.{digits}f}" for _, value in points)
        print(f"  {phase:{len(name) + 3}}{cells}{exponent(points):10.2f}", flush=True)
    return found


def sized(**changes: Any) -> Size:
    """`BASE` with changes; `vocab_size` goes to the model."""
    model = {**BASE.model, "vocab_size": changes.pop("vocab_size", BASE.model["vocab_size"])}
    return replace(BASE, model=model, **changes)


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", help="PNG file for the picture")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--longest", type=int, default=2048, help="leave out longer responses")
    parser.add_argument("--ranks", type=int, choices=[1, 2], default=1, help="processes")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="on a CPU")
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    return parser.parse_args()


def launch(ranks: int) -> int:
    """This program under DeepSpeed's launcher; its exit code."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    # The launcher starts the interpreter that it finds.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command += ["--master_port", str(port), *sys.argv]
    return subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode


def main() -> None:
    """Parse the flags, measure, print, draw."""
    options = parsed()
    if options.ranks > 1 and "WORLD_SIZE" not in os.environ:
        raise SystemExit(launch(options.ranks))
    from transformers import AttentionInterface

    AttentionInterface.register("no_attention", no_attention)
    with suppress(OSError, AttributeError):
        # Blocks of 1 MiB and more go back to the system at once (M_MMAP_THRESHOLD, glibc only):
        # what is alive is measured, not what the C library keeps.
        ctypes.CDLL("libc.so.6").mallopt(-3, 2**20)
    distributed.init_distributed()
    distributed.log_main(f"{distributed.world_size()} rank(s), {options.clock} seconds")
    measure(sized(), clock=options.clock)  # the first step of a process is slower than others
    lengths = {n: sized(response=n) for n in LENGTHS if n <= options.longest}
    series: dict[str, tuple[dict[int, Size], bool]] = {
        "response length": (lengths, True),
        "response length, no attention": (lengths, False),
        "vocabulary": ({n: sized(vocab_size=n) for n in VOCABULARIES}, True),
        "group size": ({n: sized(responses=n, group=n, prompt=256) for n in GROUPS}, True),
    }
    measured = {
        name: over(name, sizes, options.clock, attention)
        for name, (sizes, attention) in series.items()
    }
    if distributed.is_main() and options.json:
        options.json.write_text(json.dumps(measured))
    if distributed.is_main() and options.plot:
        from step_figures import draw_scaling

        draw_scaling(options.plot, measured)
    distributed.shut_down()


if __name__ == "__main__":
    main()
