"""The settings of `inference_with_rewards.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dschat.settings.command_line import flag, require
from dschat.settings.inference_flags import InferenceFlags

DATASETS = {
    "summarize": "openai/summarize_from_feedback",
    "hh-rlhf": "Dahoas/full-hh-rlhf",
    "webgpt": "openai/webgpt_comparisons",
}


@dataclass
class InferenceConfig(InferenceFlags):
    """Which policy answers which prompts, and which reward model scores the answers."""

    short_names: ClassVar[Mapping[str, str]] = DATASETS
    sampling_flags: ClassVar[tuple[str, ...]] = (
        "reference_model",
        "max_new_tokens",
        "seed",
        "end_of_conversation_token",
    )

    reward_model: str | None = flag(
        None,
        "Reward model: a sequence classifier with one output, such as step 2's step_N. It may have "
        "another tokenizer than the policy. Required.",
    )
    dataset: str = flag(
        "summarize",
        "summarize, hh-rlhf or webgpt, or the path of local data with the columns of one of the "
        "known data sets. Its evaluation split is used.",
    )
    ref_scores: bool = flag(
        False,
        "Generate nothing: score the data set's own chosen and rejected responses, into "
        "dataset.jsonl. --model then only decides, by its tokenizer, which prompts are short "
        "enough.",
    )
    reference_model: str | None = flag(
        None,
        "A model with the policy's tokenizer, for example step 1's output: the table then tells "
        "the policy's KL and Sinkhorn divergence from it, summed over a response, at --temperature "
        "(at 1 where that is 0).",
    )

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        super().validate()
        require(bool(self.reward_model), "Give --reward-model; --help says what it is.")
