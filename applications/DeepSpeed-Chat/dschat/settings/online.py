"""The settings of an online run, checked: what is common to all penalties and rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.settings.algorithm_flags import AlgorithmFlags, ReferenceSetFlags
from dschat.settings.command_line import flag, require
from dschat.settings.generation import GenerationFlags, require_backend
from dschat.settings.online_checks import (
    require_algorithm,
    require_partners,
    require_ranges,
    require_references,
)
from dschat.settings.online_flags import (
    BatchFlags,
    DataFlags,
    OptimizerFlags,
    OutputFlags,
    PretrainingMixFlags,
    SystemFlags,
)
from dschat.settings.profiling import ProfileFlags, profiled_iterations
from dschat.settings.supervised import ResumeFlags, require_resume

PARSERS = ["stanza", "link-grammar"]
"""The names that `dschat.scoring.parsing.parsers.open_parser` knows."""


# Bases are read from the last to the first: this is the order of --help, backwards.
@dataclass
class OnlineConfig(
    ProfileFlags,
    ResumeFlags,
    OutputFlags,
    GenerationFlags,
    SystemFlags,
    OptimizerFlags,
    AlgorithmFlags,
    ReferenceSetFlags,
    PretrainingMixFlags,
    BatchFlags,
    DataFlags,
):
    """What every online run has, whatever its algorithm, its penalty and its reward."""

    termination_condition: str = flag(
        "fixed",
        "How tokens are grouped into macro actions (MA-RLHF, ppo): fixed, every --ngram tokens; "
        "randomized, lengths of 1, 2, 3, 5 and 10 in random order, each --repeat_times times; ppl, "
        "a new one before each rise of the reference's perplexity from token to token; parsing, "
        "constituents of fewer than --parser_cutoff tokens.",
        choices=["fixed", "randomized", "ppl", "parsing"],
    )
    ngram: int = flag(1, "Tokens in a macro action (fixed); 1: plain PPO.")
    repeat_times: int = flag(3, "How often each length comes (randomized).")
    parser: str = flag(
        "stanza",
        "Who finds the constituents of a response (parsing; English): stanza, the package and its "
        "models; link-grammar, the program of that name, quick and with nothing to download.",
        choices=PARSERS,
    )
    parser_cutoff: int = flag(
        5, "Constituents of fewer tokens are one macro action (parsing); larger ones are divided."
    )
    value_function: str = flag(
        "equal",
        "Value of a macro action from its tokens' values: equal, their mean; unit, the last one; "
        "position, weighted by 1, 1/2, 1/3, ... (published: these look at states that the macro "
        "action itself leads to, which biases the gradient until the critic is right); first, the "
        "value of the state before it, without that bias.",
        choices=["equal", "unit", "position", "first"],
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
        require_resume(self)
        profiled_iterations(self.profile_steps)
        require_algorithm(self)
        require_references(self)
        require_backend(self)
        self._validate_batches()
        self._validate_macro_actions()
        require_partners(self)

    def _validate_macro_actions(self) -> None:
        """Flags of groupings that are not used would do nothing."""
        kind = self.termination_condition
        require(self.ngram >= 1, f"--ngram {self.ngram}: expected 1 or more.")
        require(
            self.ngram == 1 or kind == "fixed",
            f"--ngram {self.ngram} belongs to --termination_condition fixed. Remove it.",
        )
        require(self.repeat_times >= 1, f"--repeat_times {self.repeat_times}: expected 1 or more.")
        require(
            self.repeat_times == 3 or kind == "randomized",
            f"--repeat_times {self.repeat_times} belongs to --termination_condition randomized. "
            "Remove it.",
        )
        require(
            self.parser_cutoff >= 2,
            f"--parser_cutoff {self.parser_cutoff}: expected 2 or more (no constituent has fewer "
            "than 1 token). For single tokens use --termination_condition fixed --ngram 1.",
        )
        require(
            kind == "parsing" or (self.parser_cutoff == 5 and self.parser == "stanza"),
            "--parser and --parser_cutoff belong to --termination_condition parsing. Remove them.",
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
