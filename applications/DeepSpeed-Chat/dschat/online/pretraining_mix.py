"""The pre-training mix: a language-modelling loss on plain text beside the RL loss (PPO-ptx).

Source: Ouyang et al. 2022, arXiv 2203.02155, equation 2, and DeepSpeed-Chat's `train_unsupervised`:
after every micro-batch of responses as many blocks of text go forward and backward, and both
gradients add up to one optimizer step on policy loss + unsup_coef * mean -log pi(token). The mean
is over all tokens of the step on all ranks. (DeepSpeed-Chat halves the sum of the two, which Adam
does not see but gradient clipping does.) The loss is that of the policy itself, without the
sampling temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dschat.data.plain_text import open_text, text_blocks
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.settings.online import OnlineConfig


@dataclass(frozen=True)
class PretrainingMix:
    """Blocks of text, and which of them meet which responses.

    Attributes:
        blocks: [blocks, tokens] int32.
        responses: of all ranks in an iteration: as many blocks are taken.
        seed: of the order of later passes over the blocks.
    """

    blocks: np.ndarray
    responses: int
    seed: int = 0

    def rows(self, iteration: int, indices: Sequence[int]) -> np.ndarray:
        """[indices, tokens] the blocks of these indices in an iteration: functions of both alone.

        Args:
            iteration: from 0.
            indices: of responses among those of all ranks, see `Rollout`.
        """
        passes, within = np.divmod(
            iteration * self.responses + np.asarray(indices), len(self.blocks)
        )
        orders = {int(p): self._order(int(p)) for p in np.unique(passes)}
        chosen = [orders[int(p)][i] for p, i in zip(passes, within, strict=True)]
        return self.blocks[chosen]

    def _order(self, number: int) -> np.ndarray:
        if number == 0:
            return np.arange(len(self.blocks))
        return np.random.default_rng([self.seed, number]).permutation(len(self.blocks))

    def loss(
        self, actor: Any, iteration: int, micro_batches: int, experience: Experience
    ) -> Tensor:
        """A micro-batch's share of the step's mean -log pi, differentiable.

        Args:
            actor: the engine around the `PolicyModel`.
            micro_batches: of this rank in the optimizer step; all have as many responses.
            experience: the responses that the blocks go with.
        """
        indices = experience.rollout.indices
        rows = torch.from_numpy(self.rows(iteration, indices.tolist())).to(indices.device).long()
        everything = torch.ones_like(rows)
        logprobs = actor(rows, everything, everything[:, 1:].bool(), temperature=1.0)
        return -logprobs.sum() / (logprobs.numel() * micro_batches * distributed.world_size())


def load_mix(config: OnlineConfig, tokenizer: Any, iterations: int) -> PretrainingMix | None:
    """The mix that the settings ask for, with enough text for the run if there is as much.

    Raises:
        UserError: the data cannot be read or is too short.
    """
    if config.unsupervised_dataset_name is None:
        return None
    per_rank = config.per_device_generation_batch_size * config.generation_rounds()
    responses = per_rank * distributed.world_size()
    name = config.unsupervised_dataset_name
    length = config.max_prompt_seq_len + config.max_answer_seq_len
    table = open_text(name, config.unsupervised_dataset_config_name)
    needed = responses * iterations
    blocks = text_blocks(table, name, tokenizer, length, needed, config.seed)
    distributed.log_main(
        f"Pre-training mix: {needed} blocks of {length} tokens from {name}"
        + (f", {len(blocks)} of them different" if needed > len(blocks) else "")
        + f", coefficient {config.unsup_coef:g}."
    )
    return PretrainingMix(blocks, responses, config.seed)
