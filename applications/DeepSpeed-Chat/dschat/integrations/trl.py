"""TRL's GRPOTrainer with any penalty of this package in the place of its own KL.

    from dschat.integrations.trl import RegularizedGRPOTrainer

    trainer = RegularizedGRPOTrainer(..., regularizer="sinkhorn_divergence", coefficient=0.05)

Needs TRL 1.16 or a later version in which `GRPOTrainer._generate_and_score_completions` returns
advantages that the loss takes per token.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from dschat.algorithms import group_centred, penalty_to_go, reward_scale
from dschat.algorithms.advantages import STD_FLOOR
from dschat.integrations.trl_checks import (
    check_arguments,
    check_references,
    check_regularizer,
)
from dschat.integrations.trl_models import (
    HostedPolicy,
    has_adapters,
    load_references,
    share_width,
    start_of,
    without_adapters,
)
from dschat.models.policy import check_output_layer
from dschat.regularization import PolicyRegularizer, regularizer_from_config, with_defaults
from dschat.rollout.experience import Experience, Rollout
from dschat.runtime import distributed
from dschat.scoring.scoring import PenaltyScorer, to_experience
from dschat.scoring.targets import penalty_rewards
from dschat.settings.command_line import require
from dschat.settings.penalties import REGULARIZERS

logger = logging.getLogger("dschat")

TRL_EPSILON = 1e-4
"""What TRL adds to the standard deviation that it divides rewards by."""


class RegularizedGRPOTrainer(GRPOTrainer):
    """GRPO that maximises E[reward] - coefficient * E[sum_t D(policy, references)].

    The penalty enters the advantages, which become one per token: TRL's own, minus `coefficient`
    times the token penalties from that token to the end of the response, with the mean of their
    group at the same position as a baseline (see `dschat.algorithms.estimators.grpo_advantage`).
    Where the regularizer's token penalty is the first variation of its divergence, that is the
    policy gradient of the objective, up to what TRL's normaliser of the loss does to both terms
    (nothing with loss_type "dr_grpo" and scale_rewards "none"). Where TRL divides rewards by a
    standard deviation, penalties are divided by the same one, so that `coefficient` is in units of
    the reward; for groups whose standard deviation is below 0.01 both are divided as by
    `dschat.algorithms.reward_scale`.

    Log-probabilities and penalties are computed from hidden states in chunks of positions; no
    tensor of batch x length x vocabulary exists. Nothing else of the trainer changes: generation,
    vLLM and its importance sampling, rewards, the loss and its clipping are TRL's.

    The forward KL of Aminian et al. (arXiv 2502.01203) estimated from the references' own samples
    is not offered here: it is a term of the loss on other responses than the policy's, not a
    penalty of the policy's tokens. `FDivergence("fkl", form="gradient")` is the forward KL at the
    policy's own states.

    Args:
        model, reward_funcs, args, others: as for TRL's `GRPOTrainer`.
        regularizer: a `PolicyRegularizer`, one that several references are given to being a
            `MultiReference` or `MixtureReference`; or what makes one from the first reference's
            token embeddings: the name of a built-in one ("kl", "f_divergence", "wasserstein",
            "sinkhorn_divergence"), a class, or a `functools.partial` of a class with settings.
        coefficient: of the penalty, in units of the reward; at least 0.
        references: models or paths of models with the policy's vocabulary, one or several. None:
            the model without its adapters where it has adapters, else a frozen copy of the model as
            it is given.

    Raises:
        UserError: settings that would count the KL twice or that do not work with a penalty per
            token (see `check_arguments`), and references that do not fit.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *,
        regularizer: PolicyRegularizer | str | Any,
        coefficient: float,
        references: Any = None,
        **others: Any,
    ) -> None:
        check_arguments(args, coefficient)
        if references is None:
            adapters = has_adapters(model, others.get("peft_config"))
            references = [] if adapters else [start_of(model)]
        elif isinstance(references, str) or not isinstance(references, Sequence):
            references = [references]
        super().__init__(model, reward_funcs, args, **others)
        require(not self._is_vlm, "Models of images and text do not work with a regularizer here.")
        tokenizer, device = self._tokenizer, self.accelerator.device
        self.coefficient = coefficient
        check_output_layer(self.model)
        self.policy = HostedPolicy(self.model, self.temperature, self.accelerator.autocast)
        frozen = load_references(references, self.policy, tokenizer, device, self.args)
        frozen = frozen or [without_adapters(self.policy)]
        share_width(self.policy, frozen, tokenizer)
        with frozen[0].on_device() as reference:
            embeddings = reference.model.get_input_embeddings().weight.detach()
        self.regularizer = made_regularizer(
            regularizer, embeddings, tokenizer.pad_token_id, self.eos_token_ids
        )
        check_regularizer(self.regularizer)
        check_references(self.regularizer, len(frozen))
        self.scorer = PenaltyScorer(
            self.regularizer, frozen, self.temperature, distributed.union_over_ranks
        )
        self._reported = False
        if (warning := self.regularizer.warning()) and distributed.is_main():
            logger.warning(warning)

    def _calculate_rewards(self, *args: Any, **named: Any) -> Tensor:
        """TRL's, [R, rewards] of all ranks, kept for the standard deviation."""
        self._rewards: Tensor = super()._calculate_rewards(*args, **named)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, with advantages [B, T] that hold the penalty."""
        output = super()._generate_and_score_completions(inputs)
        assert self.model is not None
        training = self.model.training
        mode = "train" if training else "eval"
        group = self.num_generations if training else self.num_generations_eval
        assert group is not None
        experiences = self._scored(output, mode)
        output["advantages"] = self._penalised(output["advantages"], experiences, group, mode)
        return output

    def _scored(self, output: dict[str, Any], mode: str) -> list[Experience]:
        """The penalty at each token of this rank's completions; logs its metrics."""
        training = mode == "train"
        args = self.args
        rows = args.per_device_train_batch_size if training else args.per_device_eval_batch_size
        rollouts = rollouts_of(output, rows)
        self.policy.eval()
        try:
            with distributed.on_all_ranks():
                tokens, sums, positions = self.scorer(self.policy, rollouts)
        finally:
            self.policy.train(training)
        made = []
        for rollout, scored in zip(rollouts, tokens, strict=True):
            no_scores = torch.zeros(len(rollout.input_ids), device=rollout.input_ids.device)
            made.append(to_experience(rollout, scored, None, no_scores))
        self._log_penalty(made, sums, positions, mode)
        return made

    def _penalised(
        self, advantages: Tensor, experiences: Sequence[Experience], group: int, mode: str
    ) -> Tensor:
        """TRL's advantages [B] of this rank -> [B, T] with the penalty-to-go, 0 where masked."""
        mask = torch.cat([e.rollout.response_mask for e in experiences])
        clip = self.regularizer.reward_clip
        rewards = [penalty_rewards(e, self.coefficient, clip).double() for e in experiences]
        to_go = penalty_to_go(torch.cat(rewards), mask)
        # A group may lie on several ranks.
        whole = self.accelerator.gather(self.accelerator.pad_across_processes(to_go, dim=1))
        groups = torch.arange(len(whole), device=whole.device) // group
        start = self.accelerator.process_index * len(to_go)
        mine = slice(start, start + len(to_go))
        penalty = group_centred(whole, groups)[mine, : to_go.shape[1]]
        by_token = advantages.double().unsqueeze(1)
        if self.scale_rewards != "none":
            std = reward_std(self._rewards, self.reward_weights, group, self.scale_rewards)
            floored = (std > 0) & (std < STD_FLOOR)
            self._metrics[mode]["std_floored"].append(float(floored.double().mean()))
            std = std[mine].unsqueeze(1)
            scale = torch.where(std < STD_FLOOR, reward_scale(std), std + TRL_EPSILON)
            by_token, penalty = by_token * ((std + TRL_EPSILON) / scale), penalty / scale
        return torch.where(mask, by_token + penalty, 0.0).float()

    def _log_penalty(
        self,
        experiences: Sequence[Experience],
        sums: dict[str, float],
        positions: int,
        mode: str,
    ) -> None:
        """Means over the active tokens of all ranks, under the names of `metrics.jsonl`."""
        sums = {f"penalty/{name}": value for name, value in sums.items()}
        for name in ("divergence", "token_penalty"):
            sums[name] = sum(float(getattr(e, name).double().sum()) for e in experiences)
        # A rank without active tokens has fewer names.
        names = sorted(set().union(*distributed.gather_objects(list(sums))))
        rows = float(sum(len(e.scores) for e in experiences))
        local = [rows, float(positions), *(sums.get(name, 0.0) for name in names)]
        rows, count, *totals = distributed.sum_over_ranks(local, self.accelerator.device)
        means = {name: total / max(count, 1.0) for name, total in zip(names, totals, strict=True)}
        for name, value in means.items():
            self._metrics[mode][name].append(value)
        if not self._reported and count:
            self._reported = True
            spread = self._metrics[mode]["reward_std"][-1]
            seen = {**means, "response_length": count / rows, "reward_std": spread}
            report = self.regularizer.first_report(seen, self.coefficient)
            if report and distributed.is_main():
                logger.warning(report)


def made_regularizer(
    regularizer: PolicyRegularizer | str | Any,
    token_embeddings: Tensor,
    pad_token_id: int | None,
    eos_token_ids: Sequence[int],
) -> PolicyRegularizer:
    """The regularizer itself, or the one that a name, a class or a partial makes.

    Args:
        token_embeddings: [V, H] of the (first) reference.

    Raises:
        UserError: an unknown name.
        ValueError: something that it needs is missing, or settings that cannot be used.
    """
    target: Any = REGULARIZERS[regularizer].load() if isinstance(regularizer, str) else regularizer
    if not isinstance(regularizer, str | type | functools.partial):
        return with_defaults(regularizer)
    made_of: Any = getattr(target, "func", target)
    return regularizer_from_config(
        SimpleNamespace(regularizer=getattr(made_of, "name", None) or made_of.__name__),
        token_embeddings=token_embeddings,
        pad_token_id=pad_token_id,
        eos_token_id=list(eos_token_ids),
        target=target,
    )


def rollouts_of(output: dict[str, Any], rows: int) -> list[Rollout]:
    """What TRL generated, in micro-batches of at most `rows` rows; without texts.

    Tokens that a tool wrote are not the policy's: they are read, not penalised.
    """
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    mask = output["completion_mask"].bool()
    if "tool_mask" in output:
        mask = mask & output["tool_mask"].bool()
    found = []
    for start in range(0, len(ids), rows):
        part = slice(start, start + rows)
        no = torch.zeros(len(ids[part]), dtype=torch.bool, device=ids.device)
        places = torch.arange(start, start + len(no), device=ids.device)
        found.append(Rollout(ids[part], attention[part], mask[part], no, no, [], [], [], places))
    return found


def reward_std(rewards: Tensor, weights: Tensor, group: int, over: str) -> Tensor:
    """The standard deviation that TRL divides each completion's reward by, [R] float64.

    Args:
        rewards: [R, K] of K reward functions, NaN where one does not apply; neighbours form groups.
        weights: [K]. group: completions of a group. over: "group" or "batch".

    Returns:
        0 where fewer than two completions have a reward.
    """
    total = (rewards * weights.to(rewards.device)).nansum(dim=1)
    total[rewards.isnan().all(dim=1)] = torch.nan
    if over == "batch":
        std = nanstd(total).expand_as(total)
    else:
        std = nanstd(total.view(-1, group), dim=1).repeat_interleave(group)
    return std.double().nan_to_num(nan=0.0)
