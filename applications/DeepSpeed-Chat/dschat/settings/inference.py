"""The settings of `inference_with_rewards.py` and `inference_apps.py`, and their output files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dschat.settings.command_line import REPLACED_FLAGS, flag, require
from dschat.settings.flags import (
    RARELY_NEEDED,
    chat_template_flag,
    plugin_flag,
    require_at_least,
)
from dschat.settings.rewards import SandboxFlags
from dschat.settings.rollout.stops import StopFlags

STEP_FOLDER = re.compile(r"step[-_]?\d+")
DATASETS = {
    "summarize": "openai/summarize_from_feedback",
    "hh-rlhf": "Dahoas/full-hh-rlhf",
    "webgpt": "openai/webgpt_comparisons",
}
CODE_DATASETS = {"apps": "codeparrot/apps"}
TOP_K = 5
RESPONSES = 5

REPLACED_CODE_FLAGS = {
    **REPLACED_FLAGS,
    "reward_model": "programs are scored by their tests, and no reward model is read. Remove the "
    "flag",
    "reference_model": "responses are sampled from the --top_k most probable tokens, so a "
    "divergence of the whole policies would not describe them; use inference_with_rewards.py",
}


@dataclass
class InferenceFlags(StopFlags):
    """Which policy answers which prompts, how, and where the results go."""

    dashed: ClassVar[bool] = True
    short_names: ClassVar[Mapping[str, str]]
    """Names that --dataset knows besides paths -> names of the data sets."""
    sampling_flags: ClassVar[tuple[str, ...]]
    """Flags that have no effect with --ref-scores, where nothing is generated."""

    proj_path: str | None = flag(
        None,
        "Folder in which results/DATASET/temperature=T/ is written. Required.",
        group="Models and data",
    )
    model: str | None = flag(
        None,
        "Folder NAME/step-N of a step 3 run, which contains actor/; with --no-actor-folder the "
        "model itself (a folder or a hub name). Required without --ref-scores.",
    )
    no_actor_folder: bool = flag(False, "--model is the model itself, without a subfolder actor/.")
    dataset: str = flag(
        "",
        "The path of local data with the columns of one of the known data sets. Its evaluation "
        "split is used.",
    )
    ref_scores: bool = flag(False, "Generate nothing: score the data set's own responses.")
    num_samples: int = flag(2000, "Maximum number of prompts.")
    max_prompt_tokens: int = flag(512, "Longer prompts are skipped (and counted).")
    apply_chat_template: bool = chat_template_flag()
    data_seed: int = flag(
        1234,
        "Seed of the prompts' order. For data without an evaluation split also of the 5 % that is "
        "held out: then give the --seed of the training run.",
    )
    data_output_path: str | None = flag(
        None, "Cache folder for prepared data; unset: results/.cache in proj_path."
    )
    plugin: list[str] | None = plugin_flag("data schemas")
    overwrite: bool = flag(False, "Replace existing results, finished or not.")
    temperature: float = flag(0.8, "Sampling temperature; 0: greedy decoding.", group="Sampling")
    max_new_tokens: int = flag(256, "Maximum length of a response, in tokens.")
    seed: int = flag(1234, "Seed of sampling. The prompts are the same with every seed.")
    end_of_conversation_token: str | None = flag(
        None, "Token that ends a response; unset: the policy tokenizer's own end token."
    )
    gpu: int | None = flag(
        None,
        "Index of the GPU, from 0, for one process; unset: the first GPU, or the CPU if there is "
        "none. Under deepspeed each rank has its own.",
        group="Devices",
    )
    batch_size: int = flag(16, "Responses per rank at a time.")
    dtype: str | None = flag(
        None, "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere."
    )
    local_rank: int = flag(-1, "Set by the launcher.", group=RARELY_NEEDED)

    def validate(self) -> None:
        """Check the values and that nothing is missing; raises `UserError`."""
        require(bool(self.proj_path), "Give --proj-path; --help says what it is.")
        require(
            bool(self.model) or self.ref_scores,
            "Give the policy: --model .../NAME/step-N (or --ref-scores, to score the data set's "
            "own responses).",
        )
        require_at_least(
            self, 1, "batch_size", "num_samples", "max_new_tokens", "max_prompt_tokens"
        )
        require_at_least(self, 0, "seed", "data_seed", "gpu")
        require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            f"--temperature {self.temperature}: expected 0 (greedy) or above.",
        )
        require(
            self.no_actor_folder is False or bool(self.model),
            "--no-actor-folder says what --model is: give --model too.",
        )
        self.check_stops()
        if self.ref_scores:
            for name in (*self.sampling_flags, "stop_token", "stop_text", "include_stop_text"):
                require(
                    name not in self.given,
                    f"{self.flag(name)} has no effect with --ref-scores, which generates nothing; "
                    "remove one of the two.",
                )

    @property
    def data_name(self) -> str:
        """The data set as `load_data` takes it."""
        return self.short_names.get(self.dataset, self.dataset)

    @property
    def policy_path(self) -> str:
        """The folder of the policy's model (see `--model`).

        Raises:
            UserError: the folder does not exist or has no subfolder actor/.
        """
        assert self.model is not None
        if self.no_actor_folder:
            return self.model
        folder = Path(self.model)
        require(
            folder.is_dir(),
            f"--model {self.model}: no such folder (current folder: {Path.cwd()}). Expected the "
            "step-N of a step 3 run; for a model of the hub add --no-actor-folder.",
        )
        if not (folder / "actor").is_dir():
            inside = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            require(
                False,
                f"--model {self.model}: the folder has no subfolder actor/ (it has: {inside}). "
                "Give the step-N of a step 3 run, or, where the folder is the model itself, add "
                "--no-actor-folder.",
            )
        return str(folder / "actor")

    @property
    def output(self) -> Path:
        """The file that is written: results/DATASET/temperature=T/NAME.jsonl."""
        name = "dataset" if self.ref_scores else model_name(str(self.model))
        assert self.proj_path is not None
        results = Path(self.proj_path) / "results" / dataset_name(self.dataset, self.short_names)
        return results / f"temperature={self.temperature}" / f"{name}.jsonl"

    @property
    def cache(self) -> str:
        """Folder of prepared data."""
        return self.data_output_path or str(Path(str(self.proj_path)) / "results" / ".cache")


def model_name(path: str) -> str:
    """NAME_step-N of a folder .../NAME/step-N[/actor]; else the folder's own name."""
    folder = Path(path).resolve()
    if folder.name == "actor" and STEP_FOLDER.fullmatch(folder.parent.name):
        folder = folder.parent
    if STEP_FOLDER.fullmatch(folder.name) and folder.parent.name:
        return f"{folder.parent.name}_{folder.name}"
    return folder.name


def dataset_name(dataset: str, short_names: Mapping[str, str]) -> str:
    """The folder of a data set's results: its short name if it has one, else the path's."""
    parts = Path(dataset).parts
    for short, name in short_names.items():
        if dataset == short or "/".join(parts[-2:]) == name:
            return short
    path = Path(dataset).resolve()
    return path.stem if path.is_file() else path.name


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
        group="Models and data",
    )
    dataset: str = flag(
        "summarize",
        "summarize, hh-rlhf or webgpt, or the path of local data with the columns of one of the "
        "known data sets. Its evaluation split is used.",
    )
    ref_scores: bool = flag(
        False,
        "Generate nothing: score the data set's own chosen and rejected responses, into "
        "dataset.jsonl. --model is then used only for its tokenizer, to measure prompts.",
    )
    reference_model: str | None = flag(
        None,
        "A model with the policy's tokenizer, for example step 1's output: adds the policy's KL "
        "and Sinkhorn divergence from it to the table, summed over a response, at --temperature "
        "(at 1 where that is 0).",
    )

    def validate(self) -> None:
        """Check the values and that nothing is missing; raises `UserError`."""
        super().validate()
        require(bool(self.reward_model), "Give --reward-model; --help says what it is.")


@dataclass
class CodeInferenceConfig(SandboxFlags, InferenceFlags):
    """Which policy solves which programming problems, and how its programs are run."""

    short_names: ClassVar[Mapping[str, str]] = CODE_DATASETS
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
        2000, "Maximum number of problems, drawn with --data-seed; written in the data's order."
    )
    num_responses: int | None = flag(
        None,
        "Responses per problem, n: pass@1 to pass@n are estimated from them. Unset: 5, and 1 with "
        "--temperature 0, where all would be the same.",
        group="Sampling",
    )
    top_k: int | None = flag(
        None,
        "Sample from the top_k most probable tokens. Unset: 5, as in the published inference; the "
        "size of the vocabulary: from all. Not the k of pass@k, which is --num-responses.",
    )
    ref_scores: bool = flag(
        False,
        "Generate nothing: run the data set's own first solution of each problem, into "
        "dataset.jsonl. --model is then used only for its tokenizer, to measure prompts.",
    )
    max_new_tokens: int = flag(512, "Maximum length of a response, in tokens.")
    max_prompt_tokens: int = flag(1024, "Longer prompts are skipped (and counted).")

    def validate(self) -> None:
        """Check the values and that nothing is missing; raises `UserError`."""
        super().validate()
        self.check_sandbox_flags()
        require(
            not self.ref_scores or bool(self.model) or "max_prompt_tokens" not in self.given,
            f"--max-prompt-tokens {self.max_prompt_tokens} has no effect with --ref-scores "
            "alone: prompts are measured by the tokenizer of --model. Give --model too, or remove "
            "the flag.",
        )
        require_at_least(self, 1, "num_responses")
        top_k = self.flag("top_k")
        require(
            self.top_k is None or self.top_k >= 1,
            f"{top_k} {self.top_k}: expected 1 or more tokens to sample from; to sample from all, "
            "give the size of the vocabulary or more.",
        )
        if self.temperature == 0:
            require(
                self.num_responses in (None, 1) and self.top_k is None,
                "--temperature 0 is greedy decoding: all responses to a problem are the same. "
                f"Remove {self.flag('num_responses')} and {top_k}, or raise --temperature.",
            )

    @property
    def responses_per_problem(self) -> int:
        """How many programs each problem gets."""
        if self.ref_scores or self.temperature == 0:
            return 1
        return self.num_responses or RESPONSES

    @property
    def sampled_tokens(self) -> int | None:
        """Tokens are sampled from this many most probable ones; None: greedy decoding."""
        return None if self.temperature == 0 else self.top_k or TOP_K
