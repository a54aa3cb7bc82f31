"""TRL's DPO trainer with the margins of several references, and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trl.trainer.dpo_trainer import DPOTrainer

from dschat.algorithms.preferences import dpo_margins, implicit_rewards, mix_sequence_logprobs
from dschat.runtime.distributed import log_main, sum_over_ranks
from dschat.supervised.batches import PAIRS
from dschat.supervised.fine_tuning import held_out_batches
from dschat.supervised.reference_scoring import PairCollator, sequence_logprobs
from dschat.supervised.trainer import PairTrainer


@dataclass(frozen=True)
class PairObjective:
    """Loss and statistics of preference pairs.

    Attributes:
        weights: of the K references.
        kl_type: "rkl" or "fkl". gamma: strength of the penalty.
        max_log_ratio: see `dschat.algorithms.preferences.guarded_exp`.
    """

    weights: list[float]
    kl_type: str
    gamma: float
    max_log_ratio: float

    def losses(
        self, logps: Tensor, reference_logps: Tensor, pairs: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-log sigmoid(margin) of each pair, and statistics.

        Args:
            logps: [2 B] log pi of B chosen and then B rejected responses, differentiable.
            reference_logps: [K, 2 B] of the references.
            pairs: how many of the B count, from the first; None: all.

        Returns:
            losses [B], and by name detached sums over the pairs (see `pair_metrics`).
        """
        if pairs is not None:
            logps = logps.unflatten(0, (2, -1))[:, :pairs].flatten()
            reference_logps = reference_logps.unflatten(1, (2, -1))[..., :pairs].flatten(1)
        mixed = mix_sequence_logprobs(reference_logps, self.weights, self.kl_type)
        chosen, rejected = logps.chunk(2)
        better, worse = mixed.chunk(2)
        options = (self.gamma, self.kl_type, self.max_log_ratio)
        margins, guarded = dpo_margins(chosen, rejected, better, worse, *options)
        with torch.no_grad():
            rewards, _ = implicit_rewards(logps, mixed, *options)
            ratios = (logps - reference_logps).unflatten(1, (2, -1)).mean(dim=1)
            statistics = {
                "rewards/chosen": rewards.chunk(2)[0].sum(),
                "rewards/rejected": rewards.chunk(2)[1].sum(),
                "rewards/margins": margins.sum(),
                "rewards/accuracies": (margins > 0).sum(),
                "logps/chosen": chosen.sum(),
                "logps/rejected": rejected.sum(),
                "guard_share": guarded.nan_to_num() * len(chosen),  # a share of none is no number
                **{f"log_ratio/ref_{k}": ratio.sum() for k, ratio in enumerate(ratios)},
            }
        return -F.logsigmoid(margins), statistics


def mean_over_ranks(sums: dict[str, float], count: int, device: torch.device) -> dict[str, float]:
    """Means over all ranks' pairs, from each rank's sums; collective.

    `log_ratio/ref_k` is the mean of log pi - log rho_k over both responses of a pair; `guard_share`
    the share of responses on which the guard acts.
    """
    *totals, n = sum_over_ranks([*sums.values(), count], device)
    return {name: total / n for name, total in zip(sums, totals, strict=True)}


class MultiReferenceTrainer(PairTrainer, DPOTrainer):
    """DPO on rows that hold their references' log-probabilities; no reference is in memory."""

    objective: PairObjective

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """The data layer has made the tokens: those that the references scored."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """The rows have their references' log-probabilities already."""
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro-batch's part of the mean over the optimiser step's pairs."""
        pairs = int(inputs[PAIRS])
        # A blank micro-batch's text need not have been scored: nothing of it counts.
        if pairs and bool(inputs["reference_logps"].isnan().any()):
            raise AssertionError("a pair is trained on that no reference has scored")
        losses, statistics = self.objective.losses(
            sequence_logprobs(model, inputs), inputs["reference_logps"], pairs
        )
        return self.part_of_step(losses, statistics, num_items_in_batch)


@torch.no_grad()
def evaluate_pairs(
    model: Any,
    objective: PairObjective,
    rows: Any,
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Loss and statistics of all ranks' held-out pairs, under names that begin with eval_.

    Args:
        model: the policy's engine; all ranks must call.
        rows: tokenised pairs with their references' log-probabilities; not empty.
        batch_size: pairs per forward pass.
    """
    model.eval()
    sums: dict[str, float] = {}
    pairs = 0
    for batch, counts in held_out_batches(rows, PairCollator(pad_token_id), batch_size, device):
        losses, statistics = objective.losses(
            sequence_logprobs(model, batch), batch["reference_logps"]
        )
        for name, value in {"loss": losses.sum(), **statistics}.items():
            sums[name] = sums.get(name, 0.0) + counts * float(value)
        pairs += counts * len(losses)
    model.train()
    means = mean_over_ranks(sums, pairs, device)
    log_main(
        f"Held-out loss {means['loss']:.4f}, accuracy {means['rewards/accuracies']:.2%}, "
        f"margin {means['rewards/margins']:.4g}"
    )
    return {f"eval_{name}": value for name, value in means.items()}
