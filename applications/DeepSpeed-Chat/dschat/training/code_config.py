"""The settings of code generation: programs are run, in the place of a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.config import flag, require
from dschat.training.online_config import OnlineConfig
from dschat.training.penalty_config import DivergenceConfig, WassersteinConfig

SANDBOXES = ["auto", "bwrap", "limits"]


@dataclass
class CodeRewardFlags(OnlineConfig):
    """How generated programs are run."""

    critic_head_may_be_new: ClassVar[bool] = True

    critic_model_name_or_path: str | None = flag(
        None,
        "What the critic starts from: a reward model, or a language model, which gets a value head "
        "of zeros; unset: the policy's model.",
    )
    sandbox: str = flag(
        "auto",
        "bwrap: bubblewrap (no network, nothing of this machine but Python). limits: an "
        "unprivileged user with limits, which stop neither sockets nor reads outside. auto: "
        "bwrap where it works, else limits.",
        choices=SANDBOXES,
    )
    reward_workers: int = flag(4, "Programs that run at once, per rank.")
    test_seconds: float = flag(4.0, "Time limit of one test.")
    program_seconds: float = flag(30.0, "Time limit of all tests of a program together.")
    memory_mb: int = flag(1024, "Address space of a program's processes, in MiB.")

    def required(self) -> dict[str, str]:
        """Flags without which there is nothing to do, and what each names."""
        names = super().required()
        del names["critic_model_name_or_path"]
        return names

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        require(
            self.reward_workers >= 1, f"--reward_workers {self.reward_workers}: expected 1 or more."
        )
        for name in ("test_seconds", "program_seconds", "memory_mb"):
            value = getattr(self, name)
            require(value > 0, f"--{name} {value}: expected a number above 0.")
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
