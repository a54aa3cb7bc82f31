"""Presets: values of settings by the name of a peer's trainer or of a paper (`--preset`).

Versions looked at: TRL 1.16.0 (its PPO: 0.27, the last releases that had it), verl 0.9.1,
OpenRLHF 0.11.2. Batch sizes, models and data are a run's own; what else differs
from the peer is in docs/losses.md. Penalties are this project's: the exact reverse KL.
"""

from __future__ import annotations

from typing import Any

from dschat.settings.registry import PRESETS

_NO_PENALTY = {"kl_ctl": 0.0, "clip_reward_value": 0.0}
_GROUP: dict[str, Any] = {
    "algorithm": "grpo",
    "num_generations": 8,
    "scale_rewards": True,
    "loss_normalization": "token",
    "temperature": 1.0,
    "actor_learning_rate": 1e-6,
    **_NO_PENALTY,
}
_TRL_GRPO = {
    **_GROUP,
    "max_answer_seq_len": 512,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "num_train_epochs": 3,
}
_VERL: dict[str, Any] = {
    "dual_clip": 3.0,
    "loss_normalization": "token",
    "temperature": 1.0,
    "max_answer_seq_len": 512,
    "max_prompt_seq_len": 512,
    "actor_learning_rate": 1e-6,
    "actor_weight_decay": 0.01,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "clip_reward_value": 0.0,
}
_OPENRLHF: dict[str, Any] = {
    "kl_ctl": 0.01,
    "clip_reward_value": 10.0,
    "loss_normalization": "token",
    "temperature": 1.0,
    "actor_learning_rate": 1e-6,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.03,
}

PRESETS.add("trl_grpo", _TRL_GRPO, summary="TRL 1.16's GRPOConfig")
PRESETS.add(
    "trl_rloo",
    {
        **_TRL_GRPO,
        "algorithm": "rloo",
        "num_generations": 2,
        "scale_rewards": False,
        "kl_ctl": 0.05,
        "loss_normalization": "constant",
        "loss_constant": 1,
    },
    summary="TRL 1.16's RLOOConfig",
)
PRESETS.add(
    "trl_ppo",
    {
        "algorithm": "ppo",
        "kl_ctl": 0.05,
        "clip_reward_value": 0.0,
        "gamma": 1.0,
        "lam": 0.95,
        "whiten_advantages": True,
        "ppo_epochs": 4,
        "clip_range_value": 0.2,
        "temperature": 0.7,
        "max_answer_seq_len": 53,
        "actor_learning_rate": 5e-5,
        "critic_learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0,
    },
    summary="the PPOConfig that TRL had before 1.0",
)
PRESETS.add(
    "verl_ppo",
    {
        **_VERL,
        "algorithm": "ppo",
        "kl_ctl": 0.0,
        "lam": 1.0,
        "gamma": 1.0,
        "whiten_advantages": True,
        "clip_range_value": 0.5,
        "critic_learning_rate": 1e-5,
        "critic_weight_decay": 0.01,
    },
    summary="verl's ppo_trainer.yaml",
)
PRESETS.add(
    "verl_grpo",
    {
        **_VERL,
        "algorithm": "grpo",
        "scale_rewards": True,
        "num_generations": 5,
        "kl_ctl": 0.001,
    },
    summary="the same with what its GRPO page sets",
)
PRESETS.add(
    "openrlhf_ppo",
    {
        **_OPENRLHF,
        "algorithm": "ppo",
        "lam": 1.0,
        "gamma": 1.0,
        "whiten_advantages": True,
        "clip_range_value": 0.5,
        "critic_learning_rate": 9e-6,
    },
    summary="OpenRLHF's train_ppo_ray",
)
PRESETS.add(
    "openrlhf_reinforce++",
    {**_OPENRLHF, "advantage": "reinforce++", "num_generations": 1, "gamma": 1.0},
    summary="the same with its estimator reinforce",
)
PRESETS.add(
    "openrlhf_reinforce++_baseline",
    {**_OPENRLHF, "advantage": "reinforce++_baseline", "num_generations": 8},
    summary="the same with its estimator reinforce_baseline, 8 responses to a prompt",
)
PRESETS.add(
    "dapo",
    {
        **_GROUP,
        "num_generations": 16,
        "clip_range_high": 0.28,
        "dynamic_sampling": True,
        "actor_weight_decay": 0.1,
        "lr_scheduler_type": "constant",
    },
    summary="Yu et al., 2025; its over-long penalty is a reward: add overlong to --reward",
)
PRESETS.add(
    "dr_grpo",
    {
        **_GROUP,
        "scale_rewards": False,
        "loss_normalization": "constant",
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
    },
    summary="Liu et al., 2025",
)
PRESETS.add(
    "gspo",
    {**_GROUP, "num_generations": 16, "policy_loss": "gspo", "loss_normalization": "sequence"},
    summary="Zheng et al., 2025",
)
PRESETS.add("cispo", {**_GROUP, "policy_loss": "cispo"}, summary="MiniMax, 2025")
