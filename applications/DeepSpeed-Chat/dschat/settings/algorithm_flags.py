"""The settings of the algorithm (PPO, GRPO, RLOO) and of what the policy is held near."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import flag

ALGORITHMS = ["ppo", "grpo", "rloo"]
RESIDENCIES = ["all", "cpu", "one"]
QUANTIZATIONS = ["8bit", "4bit"]
DEFAULT_GROUP = 8


@dataclass
class AlgorithmFlags:
    """From rewards and penalties to the loss."""

    algorithm: str = flag(
        "ppo",
        "ppo: a critic and GAE. grpo: the reward minus its group's mean, no critic. rloo: minus "
        "the mean of the group's other responses.",
        choices=ALGORITHMS,
    )
    num_generations: int | None = flag(
        None, "Responses per prompt, a group; unset: 1 for ppo, 8 for grpo and rloo."
    )
    scale_rewards: bool = flag(
        False,
        "grpo: divide advantages, penalties included, by the standard deviation of the group's "
        "rewards (where that is below 0.01, by 0.01 to 1; by 1 where all are equal).",
    )
    kl_ctl: float = flag(
        0.05,
        "Coefficient of the penalty, whatever the penalty is (the paper's tables are said to use "
        "0.01 on TL;DR and 0.005 on HH-RLHF).",
    )
    clip_reward_value: float = flag(
        2.5, "Scores of responses are clipped to plus or minus this before training (0: not)."
    )
    clip_range: float = flag(0.2, "Probability ratios are clipped to 1 minus this and 1 plus it.")
    epsilon_high: float | None = flag(
        None, "The upper half-width of that interval, where it differs."
    )
    loss_normalization: str = flag(
        "token",
        "token: every token of the global batch weighs the same. sequence: every response does.",
        choices=["token", "sequence"],
    )
    entropy_coef: float = flag(
        0.0,
        "Coefficient of an entropy bonus: the actor's loss is lowered by this times the mean "
        "entropy, in nats, of the tempered policy at the step's response tokens, over the whole "
        "vocabulary; 0: none (the entropy is logged all the same).",
    )
    gamma: float = flag(1.0, "Discount per token (ppo).")
    lam: float = flag(0.95, "Lambda of generalised advantage estimation (ppo).")
    temperature: float = flag(
        0.8, "Sampling temperature; log-probabilities and penalties are of the tempered policies."
    )

    def group_size(self) -> int:
        """Responses per prompt."""
        if self.num_generations is not None:
            return self.num_generations
        return 1 if self.algorithm == "ppo" else DEFAULT_GROUP


@dataclass
class ReferenceSetFlags:
    """What the policy is held near, where it is not the model it starts from."""

    refs: list[str] | None = flag(
        None,
        "One or more references (model folders) to stay near, all with the policy's vocabulary; "
        "unset: the model that the policy starts from.",
    )
    ref_weights: list[float] | None = flag(
        None, "Their weights, from 0 to 1 with sum 1; unset: equal ones."
    )
    reference_residency: str | None = flag(
        None,
        "Where references are while they are not used: all (on the device), cpu (in the host's "
        "memory), one (on disk: loaded one at a time for every scoring). Unset: all, or cpu with "
        "--offload_reference_model.",
        choices=RESIDENCIES,
    )
    reference_quantization: str | None = flag(
        None,
        "Load references in 8 or 4 bits (needs the package bitsandbytes).",
        choices=QUANTIZATIONS,
    )
