"""The flags of how generated programs are run. Nothing heavy is imported: `--help` needs it."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.registry import REWARDS

SANDBOXES = ["auto", "bwrap", "limits"]


@dataclass
class SandboxFlags(Settings):
    """How generated programs are run; `code_reward` makes a reward of it."""

    sandbox: str = flag(
        "auto",
        "bwrap: bubblewrap (no network, nothing of this machine but Python). limits: an "
        "unprivileged user with limits, which stop neither sockets nor reads outside. auto: "
        "bwrap where it works, else limits.",
        choices=SANDBOXES,
        group="Running programs",
    )
    reward_workers: int = flag(4, "Programs that run at once, per rank.")
    test_seconds: float = flag(4.0, "Time limit of one test.")
    program_seconds: float = flag(30.0, "Time limit of all tests of a program together.")
    number_comparison: str = flag(
        "exact",
        "exact: an expected integer has to be met exactly. harness: any two numbers within a "
        "relative 1e-5, as the harness of APPS compares them, for published figures; a program "
        "can pass by rounding.",
        choices=["exact", "harness"],
    )
    memory_mb: int = flag(1024, "Address space of a program's processes, in MiB.")

    def check_sandbox_flags(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        require(
            self.reward_workers >= 1, f"--reward_workers {self.reward_workers}: expected 1 or more."
        )
        for name in ("test_seconds", "program_seconds", "memory_mb"):
            value = getattr(self, name)
            require(value > 0, f"--{name} {value}: expected a number above 0.")


@dataclass
class CodeRewardSettings(SandboxFlags):
    """The reward of programs that are run: the share of tests passed."""

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        self.check_sandbox_flags()


REWARDS.add(
    "code_execution",
    "dschat.rewards.code_execution:code_reward",
    CodeRewardSettings,
    "generated programs are run on the tests of their problem (APPS)",
)
