"""The settings of `inference_apps.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dschat.settings.code import SandboxFlags
from dschat.settings.command_line import REPLACED_FLAGS, flag, require
from dschat.settings.inference_flags import InferenceFlags

DATASETS = {"apps": "codeparrot/apps"}
TOP_K = 5
RESPONSES = 5
MAX_PROMPT_TOKENS = 1024

REPLACED_CODE_FLAGS = {
    **REPLACED_FLAGS,
    "reward_model": "programs are scored by their tests, and no reward model is read. Remove the "
    "flag",
    "reference_model": "responses are sampled among the --top_k likeliest tokens, so that a "
    "divergence of the whole policies would not be theirs; inference_with_rewards.py measures it",
}


@dataclass
class CodeInferenceConfig(SandboxFlags, InferenceFlags):
    """Which policy solves which programming problems, and how its programs are run."""

    short_names: ClassVar[Mapping[str, str]] = DATASETS
    sampling_flags: ClassVar[tuple[str, ...]] = (
        "num_responses",
        "top_k",
        "max_new_tokens",
        "seed",
        "end_of_conversation_token",
        "batch_size",
        "dtype",
        "gpu",
    )

    dataset: str = flag(
        "apps",
        "apps (codeparrot/apps), or the path of local data with its columns question, solutions, "
        "input_output (and starter_code, difficulty). Its evaluation split is used.",
    )
    num_samples: int = flag(
        2000, "At most so many problems, drawn with --data-seed; written in the data's order."
    )
    num_responses: int | None = flag(
        None,
        "Responses per problem: pass@1 to pass@this many are estimated from them. Unset: 5, and 1 "
        "with --temperature 0, where all would be the same.",
    )
    top_k: int | None = flag(
        None,
        "Each token is sampled among so many likeliest ones. Unset: 5, as in the published "
        "inference; a number as large as the vocabulary samples among all. Not the k of pass@k: "
        "that is --num_responses.",
    )
    ref_scores: bool = flag(
        False,
        "Generate nothing: run the data set's own first solution of each problem, into "
        "dataset.jsonl. --model then only decides, by its tokenizer, which prompts are short "
        "enough.",
    )
    max_new_tokens: int = flag(512, "Responses stop at this many tokens.")
    max_prompt_tokens: int = flag(MAX_PROMPT_TOKENS, "Longer prompts are left out (and counted).")

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        super().validate()
        self.check_sandbox_flags()
        longest = self.max_prompt_tokens
        require(
            not self.ref_scores or bool(self.model) or longest == MAX_PROMPT_TOKENS,
            f"--max-prompt-tokens {longest} has no effect with --ref-scores alone: prompts are "
            "measured by the tokenizer of --model. Give --model too, or remove the flag.",
        )
        require(
            self.num_responses is None or self.num_responses >= 1,
            f"--num_responses {self.num_responses}: expected 1 or more.",
        )
        require(
            self.top_k is None or self.top_k >= 1,
            f"--top_k {self.top_k}: expected 1 or more likeliest tokens to sample among; to sample "
            "among all, give the size of the vocabulary or more.",
        )
        if self.temperature == 0:
            require(
                self.num_responses in (None, 1) and self.top_k is None,
                "--temperature 0 takes the likeliest token each time, so that all responses to a "
                "problem are the same: remove --num_responses and --top_k, or raise --temperature.",
            )

    @property
    def responses_per_problem(self) -> int:
        """How many programs each problem gets."""
        if self.ref_scores or self.temperature == 0:
            return 1
        return self.num_responses or RESPONSES

    @property
    def sampled_tokens(self) -> int | None:
        """How many of the likeliest tokens are sampled among; None where nothing is sampled."""
        return None if self.temperature == 0 else self.top_k or TOP_K
