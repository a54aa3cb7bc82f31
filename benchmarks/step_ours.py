"""This project's step on the model and prompts of a benchmark size (started by step.py)."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dschat.data.ends import ends_of
from dschat.online.run import Extras, build_trainer
from dschat.online.setup import start
from dschat.settings.online import online_config
from step_sizes import NEVER, SIZES, Size, score_text, words
from step_worker import say, serve, wait


class Phases:
    """Seconds by phase; a call within another one's counts for the inner one alone.

    Args:
        clock: what seconds are read from.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: list[list[Any]] = []

    def timed(self, phase: Callable[[], str] | str, call: Callable[..., Any]) -> Any:
        """`call` that adds its seconds to the phase."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            name = phase if isinstance(phase, str) else phase()
            self._switch()
            self.running.append([name, self.clock()])
            try:
                return call(*args, **kwargs)
            finally:
                self._switch()
                self.running.pop()
                if self.running:
                    self.running[-1][1] = self.clock()

        return wrapped

    def _switch(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.running:
            name, since = self.running[-1]
            self.seconds[name] += self.clock() - since


def settings(size: Size, folder: str, output: str, algorithm: str, steps: int) -> dict[str, Any]:
    """Flags of main.py for a size."""
    path = Path(output) / "prompts"
    path.mkdir(parents=True)
    vocabulary = size.model["vocab_size"]
    rows = [{"prompt": words(size.prompt, vocabulary, seed)} for seed in range(max(64, steps * 64))]
    (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grouped = {"algorithm": algorithm, "num_generations": size.group, "scale_rewards": True}
    return {
        "data_path": [str(path)],
        "data_split": "0,0,1",
        "actor_model_name_or_path": f"{folder}/actor",
        "critic_model_name_or_path": f"{folder}/reward",
        "output_dir": output,
        "max_prompt_seq_len": size.prompt,
        "max_answer_seq_len": size.response,
        "per_device_generation_batch_size": size.responses,
        "per_device_training_batch_size": size.responses,
        "actor_learning_rate": 1e-5,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0,
        "temperature": 0.8,
        "kl_ctl": 0.05,
        "seed": 1,
        **({"critic_learning_rate": 5e-6} if algorithm == "ppo" else grouped),
    }


def watch(trainer: Any, phases: Phases) -> None:
    """Time the parts of an iteration."""
    trainer.run_iteration = phases.timed("other", trainer.run_iteration)
    trainer.sample = phases.timed("generate", trainer.sample)
    trainer.scorer.score = phases.timed("score", trainer.scorer.score)
    trainer.reward.explained = phases.timed("score", trainer.reward.explained)
    trainer.scorer.penalty.regularizer = _Timed(trainer.scorer.penalty.regularizer, phases)
    for name in ("actor", "critic"):
        engine = getattr(trainer, name)
        if engine is None:
            continue
        forward = engine.forward
        update = f"{name} update"
        # In eval mode it is the scoring that asks.
        phase = lambda engine=engine, update=update: update if engine.training else "score"  # noqa: E731
        engine.forward = phases.timed(phase, forward)
        engine.backward = phases.timed(update, engine.backward)
        engine.step = phases.timed(update, engine.step)


def never_end(trainer: Any) -> None:
    """Let every response be as long as it may be."""
    trainer.tokenizer.add_special_tokens({"eos_token": NEVER})
    sampler = trainer.sampler.sampler
    never = replace(sampler.settings, end_ids=ends_of(trainer.tokenizer).ids)
    trainer.sampler = replace(trainer.sampler, sampler=replace(sampler, settings=never))


class _Timed:
    """A regulariser whose calls are counted as the penalty's."""

    def __init__(self, regularizer: Any, phases: Phases) -> None:
        self._regularizer = regularizer
        self._call = phases.timed("penalty", regularizer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._regularizer, name)


def main() -> None:
    """Parse the arguments and serve steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=list(SIZES))
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("algorithm", choices=["grpo", "ppo"])
    parser.add_argument("steps", type=int)
    parser.add_argument("--flags", nargs="*", default=[], help="NAME=JSON settings of main.py")
    options = parser.parse_args()
    size = SIZES[options.size]
    flags = {k: json.loads(v) for k, v in (each.split("=", 1) for each in options.flags)}

    def run() -> None:
        given = settings(size, options.folder, options.output, options.algorithm, options.steps)
        config = online_config(**given, **flags)
        config.validate()
        reward: Any = score_text if options.algorithm == "grpo" else None
        trainer = build_trainer(config, *start(config), Extras(reward=reward))
        never_end(trainer)
        phases = Phases()
        watch(trainer, phases)
        prompts = size.responses // trainer.group_size
        done = 0
        while wait():
            phases.seconds.clear()
            at, cpu = time.perf_counter(), time.process_time()
            batch = trainer.prompts[done * prompts : (done + 1) * prompts]
            metrics = trainer.run_iteration(batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds, cpu = time.perf_counter() - at, time.process_time() - cpu
            if metrics["response_length"] != size.response:
                raise SystemExit(f"responses of {metrics['response_length']} tokens")
            done += 1
            say(seconds=seconds, cpu=cpu, phases=dict(phases.seconds))

    serve(run)


if __name__ == "__main__":
    main()
