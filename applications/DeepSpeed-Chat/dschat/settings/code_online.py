"""The settings of code generation: programs are run, in the place of a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.settings.code import SandboxFlags
from dschat.settings.command_line import flag, require
from dschat.settings.online import OnlineConfig
from dschat.settings.penalty import DivergenceConfig, WassersteinConfig


@dataclass
class CodeRewardFlags(SandboxFlags, OnlineConfig):
    """How generated programs are run."""

    critic_head_may_be_new: ClassVar[bool] = True

    critic_model_name_or_path: str | None = flag(
        None,
        "What the critic starts from: a reward model, or a language model, which gets a value head "
        "of zeros; unset: the policy's model.",
    )

    def required(self) -> dict[str, str]:
        """Flags without which there is nothing to do, and what each names."""
        names = super().required()
        del names["critic_model_name_or_path"]
        return names

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        self.check_sandbox_flags()
        require(
            self.algorithm == "ppo" or self.critic_model_name_or_path is None,
            f"--critic_model_name_or_path: --algorithm {self.algorithm} has no critic, and "
            "programs need no reward model. Remove the flag.",
        )
        super().validate()
        # Without a reward model the critic starts from the policy, knowing nothing.
        if self.algorithm == "ppo":
            self.critic_model_name_or_path = (
                self.critic_model_name_or_path or self.actor_model_name_or_path
            )


@dataclass
class DivergenceCodeConfig(CodeRewardFlags, DivergenceConfig):
    """main_apps.py: KL or an f-divergence, and programs that are run."""


@dataclass
class WassersteinCodeConfig(CodeRewardFlags, WassersteinConfig):
    """main_wpr_apps.py: a Wasserstein penalty, and programs that are run."""
