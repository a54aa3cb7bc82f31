"""TRL's DPO trainer with the margins of several references, and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trl.trainer.dpo_trainer import DPOTrainer

from dschat.algorithms.preferences import dpo_margins, implicit_rewards, mix_sequence_logprobs
from dschat.runtime.distributed import log_main
from dschat.supervised.batches import PAIRS
from dschat.supervised.fine_tuning import held_out_means
from dschat.supervised.reference_scoring import PairCollator, sequence_logprobs
from dschat.supervised.trainer import PairTrainer


@dataclass(frozen=True)
class PairObjective:
    """Loss and statistics of preference pairs.

    Attributes:
        weights: of the K references.
        kl_type: "rkl", "fkl" or "rkl_chi2". gamma: strength of the penalty.
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
            losses [B], and by name detached sums over the pairs (see `evaluate_pairs`).
        """
        if pairs is not None:
            logps = logps.unflatten(0, (2, -1))[:, :pairs].flatten()
            reference_logps = reference_logps.unflatten(1, (2, -1))[..., :pairs].flatten(1)
        mixed = mix_sequence_logprobs(reference_logps, self.weights, self.kl_type)
        chosen, rejected = logps.chunk(2)
        better, worse = mixed.chunk(2, dim=-1)
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

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The Trainer rounds all floats to the model's dtype, and bf16 has no -200.5."""
        logps = inputs["reference_logps"].to(self.args.device)
        return {**super()._prepare_inputs(inputs), "reference_logps": logps}

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


def evaluate_pairs(
    model: Any, objective: PairObjective, rows: Any, pad_token_id: int, batch_size: int
) -> dict[str, float]:
    """Loss and statistics of all ranks' held-out pairs, under names that begin with eval_.

    `log_ratio/ref_k` is the mean of log pi - log rho_k over both responses of a pair; `guard_share`
    the share of responses on which the guard acts.

    Args:
        model: the policy's engine; all ranks must call.
        rows: tokenised pairs with their references' log-probabilities.
        batch_size: pairs per forward pass.

    Returns:
        Nothing without rows.
    """

    def sums(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logps = sequence_logprobs(model, batch)
        losses, statistics = objective.losses(logps, batch["reference_logps"])
        return {"loss": losses.sum(), **statistics, "pairs": torch.tensor(len(losses))}

    found = held_out_means(model, rows, PairCollator(pad_token_id), batch_size, sums, "pairs")
    if found:
        del found["eval_pairs"]
        log_main(
            f"Held-out loss {found['eval_loss']:.4f}, accuracy "
            f"{found['eval_rewards/accuracies']:.2%}, margin {found['eval_rewards/margins']:.4g}"
        )
    return found
