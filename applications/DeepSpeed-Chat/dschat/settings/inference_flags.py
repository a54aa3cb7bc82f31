"""The settings that all inference has, and the names of what it writes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dschat.settings.command_line import flag, require
from dschat.settings.flags import plugin_flag

STEP_FOLDER = re.compile(r"step[-_]?\d+")


@dataclass
class InferenceFlags:
    """Which policy answers which prompts, how, and where the results go."""

    short_names: ClassVar[Mapping[str, str]]
    """Names that --dataset knows besides paths -> names of the data sets."""
    sampling_flags: ClassVar[tuple[str, ...]]
    """What has no effect where nothing is generated."""

    proj_path: str | None = flag(None, "Folder that gets results/DATASET/temperature=T/. Required.")
    model: str | None = flag(
        None,
        "Folder NAME/step-N of a step 3 run, which holds actor/; with --no-actor-folder the model "
        "itself (a folder or a hub name). Required without --ref-scores.",
    )
    dataset: str = flag(
        "",
        "The path of local data with the columns of one of the known data sets. Its evaluation "
        "split is used.",
    )
    temperature: float = flag(0.8, "Sampling temperature; 0: the likeliest token each time.")
    gpu: int | None = flag(
        None,
        "Number of the GPU, from 0, for one process; unset: the first GPU, or the CPU where there "
        "is none. Under deepspeed with several ranks each has its own.",
    )
    batch_size: int = flag(16, "Responses per rank at a time.")
    ref_scores: bool = flag(False, "Generate nothing: score the data set's own responses.")
    no_actor_folder: bool = flag(False, "--model is the model itself and holds no actor/.")
    num_samples: int = flag(2000, "At most so many prompts.")
    max_new_tokens: int = flag(256, "Responses stop at this many tokens.")
    max_prompt_tokens: int = flag(512, "Longer prompts are left out (and counted).")
    dtype: str | None = flag(
        None, "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere."
    )
    seed: int = flag(1234, "Seed of sampling. The prompts are the same with every seed.")
    data_seed: int = flag(
        1234,
        "Seed of the prompts' order. For data without an evaluation split also of the 5 %% that is "
        "held out: then give the --seed of the training run.",
    )
    end_of_conversation_token: str | None = flag(
        None, "Token that ends a response; unset: the policy tokenizer's own end token."
    )
    apply_chat_template: bool = flag(
        False,
        "Write prompts that are plain texts with the model's chat template: a dialogue "
        "(Human: ... Assistant:) as its turns, any other text as a user's turn.",
    )
    data_output_path: str | None = flag(
        None, "Folder for prepared data, kept for the next run; unset: results/.cache in proj_path."
    )
    plugin: list[str] | None = plugin_flag("data schemas")
    overwrite: bool = flag(False, "Start anew where there are results, finished or not.")
    local_rank: int = flag(-1, "Set by the launcher.")

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        require(bool(self.proj_path), "Give --proj-path; --help says what it is.")
        require(
            bool(self.model) or self.ref_scores,
            "Give the policy: --model .../NAME/step-N (or --ref-scores, to score the data set's "
            "own responses).",
        )
        for name in ("batch_size", "num_samples", "max_new_tokens", "max_prompt_tokens"):
            value = getattr(self, name)
            require(value >= 1, f"--{dashed(name)} {value}: expected 1 or more.")
        for name in ("seed", "data_seed"):
            value = getattr(self, name)
            require(value >= 0, f"--{dashed(name)} {value}: expected 0 or more.")
        require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            f"--temperature {self.temperature}: expected 0 (greedy) or above.",
        )
        require(self.gpu is None or self.gpu >= 0, f"--gpu {self.gpu}: expected 0 or more.")
        require(
            self.no_actor_folder is False or bool(self.model),
            "--no-actor-folder says what --model is: give --model too.",
        )
        if self.ref_scores:
            defaults = {f.name: f.default for f in dataclasses.fields(self)}
            for name in self.sampling_flags:
                require(
                    getattr(self, name) == defaults[name],
                    f"--{dashed(name)} has no effect with --ref-scores, which generates nothing; "
                    "remove one of the two.",
                )

    @property
    def data_name(self) -> str:
        """The data set as `load_data` takes it."""
        return self.short_names.get(self.dataset, self.dataset)

    @property
    def policy_path(self) -> str:
        """Where the policy's model lies (see `--model`).

        Raises:
            UserError: the folder is not there or holds no actor/.
        """
        assert self.model is not None
        if self.no_actor_folder:
            return self.model
        folder = Path(self.model)
        require(
            folder.is_dir(),
            f"--model {self.model}: no such folder (looked in {Path.cwd()}). Expected the "
            "step-N of a step 3 run; for a model of the hub add --no-actor-folder.",
        )
        if not (folder / "actor").is_dir():
            inside = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            require(
                False,
                f"--model {self.model}: the folder holds no actor/ (it holds: {inside}). Give the "
                "step-N of a step 3 run, or, where the folder is the model itself, add "
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


def dashed(name: str) -> str:
    """The flag as the commands write it."""
    return name.replace("_", "-")


def model_name(path: str) -> str:
    """NAME_step-N of a folder .../NAME/step-N[/actor]; else the folder's own name."""
    folder = Path(path).resolve()
    if folder.name == "actor" and STEP_FOLDER.fullmatch(folder.parent.name):
        folder = folder.parent
    if STEP_FOLDER.fullmatch(folder.name) and folder.parent.name:
        return f"{folder.parent.name}_{folder.name}"
    return folder.name


def dataset_name(dataset: str, short_names: Mapping[str, str]) -> str:
    """The folder of a data set's results: the short name where there is one, else the path's."""
    parts = Path(dataset).parts
    for short, name in short_names.items():
        if dataset == short or "/".join(parts[-2:]) == name:
            return short
    path = Path(dataset).resolve()
    return path.stem if path.is_file() else path.name
