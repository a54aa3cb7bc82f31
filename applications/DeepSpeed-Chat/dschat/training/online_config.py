"""The settings of an online run, checked: what is common to all penalties and rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.config import flag, require
from dschat.training.algorithm_flags import AlgorithmFlags, ReferenceSetFlags
from dschat.training.online_checks import (
    require_algorithm,
    require_partners,
    require_ranges,
    require_references,
)
from dschat.training.online_flags import (
    BatchFlags,
    DataFlags,
    OptimizerFlags,
    OutputFlags,
    SystemFlags,
)


# Bases are read from the last to the first: this is the order of --help, backwards.
@dataclass
class OnlineConfig(
    OutputFlags,
    SystemFlags,
    OptimizerFlags,
    AlgorithmFlags,
    ReferenceSetFlags,
    BatchFlags,
    DataFlags,
):
    """What every online run has, whatever its algorithm, its penalty and its reward."""

    termination_condition: str = flag(
        "fixed", "How tokens are grouped into macro actions (only 'fixed' in this version)."
    )
    ngram: int = flag(1, "Tokens in a macro action (only 1, plain PPO, in this version).")
    value_function: str = flag(
        "equal", "Value of a macro action: equal, unit or position; the same for --ngram 1."
    )

    critic_head_may_be_new: ClassVar[bool] = False
    """Whether the critic may start from a causal LM, with a value head of zeros."""

    final_in_output_dir: ClassVar[bool] = False
    """Whether the trained policy is a model folder at output_dir itself, and not at step-N."""

    @property
    def regularizer(self) -> str:
        """The penalty's name in the regularisers' registry."""
        raise NotImplementedError(f"{type(self).__name__} names no penalty")

    def required(self) -> dict[str, str]:
        """Flags without which there is nothing to do, and what each names."""
        return {
            "actor_model_name_or_path": "the policy to start from (step 1's output)",
            "critic_model_name_or_path": "the reward model (step 2's output_dir/step_N)",
            "output_dir": "a folder for the results",
        }

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        for name, what in self.required().items():
            require(getattr(self, name) is not None, f"Give {what}: --{name} FOLDER.")
        require_ranges(self)
        require_algorithm(self)
        require_references(self)
        self._validate_batches()
        self._validate_macro_actions()
        require_partners(self)

    def _validate_macro_actions(self) -> None:
        """Only single tokens are actions; all value functions agree on them."""
        wanted = f"--termination_condition {self.termination_condition} --ngram {self.ngram}"
        require(
            (self.termination_condition, self.ngram) == ("fixed", 1),
            f"{wanted}: macro actions are not in this version; use --termination_condition fixed "
            "--ngram 1 (plain PPO).",
        )
        require(
            self.value_function in ("equal", "unit", "position"),
            f"--value_function {self.value_function!r}: expected equal, unit or position.",
        )

    def _validate_batches(self) -> None:
        """One generation batch is cut into whole micro-batches, those into whole steps."""
        generated, trained = (
            self.per_device_generation_batch_size * self.generation_batches,
            self.per_device_training_batch_size,
        )
        require(
            self.per_device_generation_batch_size % trained == 0,
            f"--per_device_generation_batch_size {self.per_device_generation_batch_size} is no "
            f"multiple of --per_device_training_batch_size {trained}: every generation batch is "
            "cut into whole micro-batches. Change one of the two.",
        )
        micro_batches = generated // trained
        accumulation = self.gradient_accumulation_steps
        require(
            micro_batches % accumulation == 0 or accumulation % micro_batches == 0,
            f"An iteration's {micro_batches} micro-batches per rank (generation batch size x "
            f"generation batches / training batch size) and --gradient_accumulation_steps "
            f"{accumulation} do not divide each other. Change one of them.",
        )

    def generation_rounds(self) -> int:
        """Generation batches per iteration, enough for whole optimiser steps."""
        micro_batches = (
            self.per_device_generation_batch_size
            * self.generation_batches
            // self.per_device_training_batch_size
        )
        return self.generation_batches * max(1, self.gradient_accumulation_steps // micro_batches)

    def planned_iterations(self, n_prompts: int, prompts_per_iteration: int) -> int:
        """Iterations of the whole run."""
        total = n_prompts // prompts_per_iteration * self.num_train_epochs
        return min(total, self.test_stop_step) if self.enable_test_mode else total
