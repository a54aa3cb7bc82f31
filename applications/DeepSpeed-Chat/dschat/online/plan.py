"""How long an online run is: responses, prompts and optimizer steps, and what they are made of."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.online.pretraining_mix import PretrainingMix
from dschat.regularization import PolicyRegularizer
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import read_overrides
from dschat.scoring.token_table import file_checksum
from dschat.settings.command_line import require
from dschat.settings.online import OnlineConfig


def responses_per_iteration(config: OnlineConfig) -> int:
    """Of all ranks."""
    per_rank = config.per_device_generation_batch_size * config.generation_rounds()
    return per_rank * distributed.world_size()


def prompts_per_iteration(config: OnlineConfig) -> int:
    """Of all ranks."""
    return responses_per_iteration(config) // config.group_size()


def check_groups(config: OnlineConfig) -> None:
    """Refuse a group size that does not divide an iteration's responses.

    Raises:
        UserError: says both numbers and where the larger one comes from.
    """
    total, group = responses_per_iteration(config), config.group_size()
    if total % group:
        raise UserError(
            f"{config.flag('num_generations')} {group} does not divide the {total} responses "
            f"of an iteration ({distributed.world_size()} ranks x "
            f"{config.per_device_generation_batch_size} per generation batch x "
            f"{config.generation_rounds()} generation batches): groups would be cut. Change one of "
            "these."
        )


def optimizer_steps(config: OnlineConfig, n_prompts: int) -> int:
    """Optimizer steps of the whole run."""
    prompts = prompts_per_iteration(config)
    require(
        n_prompts >= prompts,
        f"There are {n_prompts} prompts and an iteration takes {prompts}: "
        f"{responses_per_iteration(config)} responses ({distributed.world_size()} ranks x "
        f"{config.flag('per_device_generation_batch_size')} "
        f"{config.per_device_generation_batch_size} x {config.generation_rounds()} generation "
        f"batches) in groups of {config.flag('num_generations')} {config.group_size()}. Lower the "
        "batch size or the accumulation, use fewer ranks, let longer prompts in, or give more "
        "data.",
    )
    return config.planned_iterations(n_prompts, prompts) * config.updates_per_iteration()


def data_facts(
    prompts: list[PromptExample], mix: PretrainingMix | None, config: OnlineConfig
) -> dict[str, Any]:
    """What a resumed run must share beside the settings: its data and the files these name.

    Raises:
        UserError: such a file cannot be read.
    """
    crc = 0
    for prompt in prompts:
        crc = zlib.crc32(np.asarray(prompt.ids, dtype=np.int64).tobytes(), crc)
    return {
        "prompts": len(prompts),
        "checksum_of_the_prompts": crc,
        "checksum_of_the_text": None if mix is None else zlib.crc32(mix.blocks.tobytes()),
        "contents_of_the_deepspeed_config": read_overrides(config.deepspeed_config),
        "checksum_of_the_embedding": file_checksum(config.penalty),
    }


def report(
    config: OnlineConfig, regularizer: PolicyRegularizer, n_prompts: int, steps: int
) -> None:
    """Say at the start what is about to happen, and what is odd about the penalty."""
    if figures := regularizer.diagnose():
        facts = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        distributed.log_main(f"{regularizer.name}: {facts}")
    if warning := regularizer.warning():
        distributed.log_main(f"WARNING: {warning}")
    rounds = config.generation_rounds()
    if rounds != config.generation_batches:
        distributed.log_main(
            f"{rounds} generation batches per iteration, so that "
            f"{config.gradient_accumulation_steps} accumulated micro-batches come from one policy."
        )
    size = prompts_per_iteration(config)
    unused = n_prompts % size
    distributed.log_main(
        f"{n_prompts} prompts, {distributed.world_size()} rank(s), {steps} optimizer steps"
        + (f"; {unused} prompts of each epoch make no full iteration of {size}" if unused else "")
        + "."
    )
