"""Run by test_trl_ranks.py on one rank or two: advantages and gradient of one generation batch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from trl_fixtures import Written, gradients, trainer_of, varied

PROMPTS = {"a": [5, 6, 7]}
COMPLETIONS = [[20, 21, 22, 1], [23, 24], [35, 36, 37, 38, 39], [1]]
COMPLETIONS += [[25, 26, 27], [31, 1], [40, 1], [41, 42, 43]]
SCORES = [1.0, 0.25, 0.3, -0.2, -0.5, 0.75, 0.1, 0.0]


def main(model_dir: str, folder: str) -> None:
    start = AutoModelForCausalLM.from_pretrained(model_dir).float()
    model = varied(start, 0)
    world = []  # the trainer's, once it is made

    def mine(values: list[Any]) -> list[Any]:
        state = world[0].accelerator
        share = len(values) // state.num_processes
        return values[state.process_index * share : (state.process_index + 1) * share]

    class Share(Written):
        def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
            found = mine(COMPLETIONS)
            ids = [PROMPTS[p] for p in prompts]
            logprobs = [[0.0] * len(c) for c in found]
            return {"prompt_ids": ids, "completion_ids": found, "logprobs": logprobs}

    def reward(completions: list[str], **columns: Any) -> list[float]:
        return mine(SCORES)

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = trainer_of(
        Path(folder) / "out",
        model,
        AutoTokenizer.from_pretrained(model_dir),
        ["a"],
        reward,
        Share(PROMPTS, {}),
        regularizer="kl",
        references=varied(start, 1),
        num_generations=8,
        per_device_train_batch_size=8 // ranks,
        scale_rewards="group",
        loss_type="dapo",
    )
    world.append(trainer)
    model.train()
    output = trainer._generate_and_score_completions([{"prompt": "a"} for _ in mine(SCORES)])
    trainer.compute_loss(model, output).backward()
    mean = trainer.accelerator.reduce(gradients(model), reduction="mean")
    wide = trainer.accelerator.pad_across_processes(output["advantages"], dim=1)
    advantages = trainer.accelerator.gather(wide)
    divergence = trainer._metrics["train"]["divergence"][0]
    if trainer.accelerator.is_main_process:
        torch.save(
            (mean, advantages, divergence, trainer.accelerator.num_processes),
            f"{folder}/{ranks}.pt",
        )
    trainer.end()


if __name__ == "__main__":
    main(*sys.argv[-2:])  # a launcher's argument comes first
