"""The settings of `compare.py` and `plot_runs.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dschat.settings.command_line import CommandLine, Settings, flag, require
from dschat.settings.flags import plugin_flag
from dschat.settings.registry import REWARDS
from dschat.settings.rewards import REWARD_MODEL, names_reward
from dschat.settings.rollout.stops import StopFlags

DIVERGENCES = ("KL", "Sinkhorn")
FOR_MODELS = (
    *("models", "reference_models", "dataset", "num_samples", "max_prompt_tokens"),
    *("max_new_tokens", "temperature", "greedy", "batch_size", "dtype", "few_shot"),
    *("reward_model", "reward", "kinds", "divergences", "epsilon"),
    *("stop_token", "stop_text", "include_stop_text"),
)
"""Flags that have no effect on files of responses."""


@dataclass
class CompareConfig(StopFlags):
    """What to compare, and how."""

    files: list[str] = flag(
        [],
        "Two or more files of lines {prompt, response, reward}, as inference_with_rewards.py "
        "writes; the flag itself may be left out. Or give --models.",
        group="What to compare",
    )
    output: str = flag(
        "comparison",
        "Folder for comparison.html, comparison.txt and comparison.json, made if need be; with "
        "--models also comparison.png and the responses of each model, NAME.jsonl.",
    )
    models: list[str] = flag(
        [],
        "NAME=FOLDER of each model that is to respond (a folder or a hub name). All models have "
        "one tokenizer.",
    )
    reference_models: list[str] = flag(
        [],
        "NAME=FOLDER of models that respond as well, and from which the divergences of all models "
        "are measured.",
    )
    dataset: list[str] = flag(
        [], "Data sets whose held-out prompts are answered: names or local paths. For --models."
    )
    num_samples: int | None = flag(
        None, "At most so many prompts, the first ones; unset: all.", group="How models respond"
    )
    max_prompt_tokens: int = flag(512, "Longer prompts are left out (and counted).")
    max_new_tokens: int = flag(256, "Responses stop at this many tokens.")
    temperature: float = flag(1.0, "Of sampled responses and of the divergences.")
    greedy: bool = flag(False, "Respond greedily as well.")
    batch_size: int = flag(64, "Responses at a time.")
    dtype: str | None = flag(
        None, "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere."
    )
    few_shot: int = flag(
        0, "Worked examples before every question, from the training part; not evaluated on."
    )
    reward_model: str | None = flag(
        None,
        "Reward model that scores the responses; it may have another tokenizer.",
        group="What is measured",
    )
    reward: list[str] | None = flag(
        None,
        "What else scores the responses, each in a column of its own: names, or functions of your "
        "own, my_file.py:function. Unset, and without --reward_model: whether the answer is the "
        "row's known one, as for gsm8k (--reward math has the flags of that).",
        registry=REWARDS,
        repeatable=True,
    )
    plugin: list[str] | None = plugin_flag("rewards or data schemas")
    pass_k: list[int] = flag(
        [], "The k of pass@k; the largest is how many responses are sampled per prompt. Unset: 1."
    )
    kinds: list[str] = flag(
        [], "NAME=TEXT: accuracy also on those problems whose written answer contains the text."
    )
    divergences: list[str] = flag(
        ["KL"],
        f"From each reference model, per response: {', '.join(DIVERGENCES)}.",
        choices=DIVERGENCES,
    )
    epsilon: float | None = flag(
        None,
        "Entropic regularisation of the Sinkhorn divergence, in units of the mean distance of two "
        "tokens; unset: as for --regularizer sinkhorn_divergence.",
    )
    runs: list[str] = flag([], "Folders of training runs, drawn into --output as by plot_runs.py.")
    references: str | None = flag(
        None,
        "Measure ROUGE against these: a file of lines {prompt, reference} (or chosen, or response, "
        "in the place of reference), or a data set, named as for --dataset, whose preferred "
        "responses are taken. Unset: no ROUGE.",
    )
    stemmer: bool = flag(
        False, "ROUGE compares the stems of words (Porter), not the words (--references)."
    )
    allow_unpaired: bool = flag(
        False,
        "Skip prompts that are not in every file, and count them; else they are an error.",
    )
    resamples: int = flag(9999, "Resamples of the bootstrap intervals.")
    seed: int = flag(
        42, "Seed of sampling (the same random numbers for all models) and resampling."
    )
    num_shown: int = flag(10, "How many prompts with the largest differences are shown.")

    def validate(self) -> None:
        """Raises `UserError` where a value is missing, out of range or without effect."""
        if self.models or self.reference_models:
            self._check_models()
        else:
            self._check_files()
        for name in ("num_samples", "max_prompt_tokens", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: expected 1 or more.")
        for name in ("few_shot", "num_shown", "seed"):
            value = getattr(self, name)
            require(value >= 0, f"--{name} {value}: expected 0 or more.")
        require(self.temperature > 0, f"--temperature {self.temperature}: expected more than 0.")
        require(self.resamples >= 100, f"--resamples {self.resamples}: expected 100 or more.")
        require(
            all(k >= 1 for k in self.pass_k),
            f"--pass_k {self.pass_k}: expected one or more numbers from 1.",
        )
        require(
            not self.stemmer or self.references is not None,
            "--stemmer is of ROUGE, which is measured with --references only. Remove it.",
        )

    def _check_files(self) -> None:
        require(
            len(self.files) >= 2,
            f"{len(self.files)} files are given; expected two or more: compare.py A.jsonl B.jsonl, "
            "or --models NAME=FOLDER ... to let models respond.",
        )
        resolved = [Path(path).resolve() for path in self.files]
        for path, given in zip(resolved, self.files, strict=True):
            require(
                resolved.count(path) == 1, f"{given} is given twice. Give the responses of models."
            )
        for name in FOR_MODELS:
            require(
                name not in self.given,
                f"--{name} has no effect on files of responses: it is for --models. Remove it.",
            )

    def _check_models(self) -> None:
        require(not self.files, "Give either files of responses or --models, which are to respond.")
        require(
            bool(self.dataset), "Give --dataset: the data set whose prompts the models respond to."
        )
        for name in ("models", "reference_models", "kinds"):
            for pair in getattr(self, name):
                require(all(pair.partition("=")), f"--{name} {pair!r}: expected NAME=VALUE.")
        names = [pair.split("=", 1)[0] for pair in (*self.models, *self.reference_models)]
        require(
            len(set(names)) == len(names),
            f"Two models have one name: {', '.join(names)}. Give each its own.",
        )
        for name in names:
            require(
                "/" not in name and not name.startswith("."),
                f"--models {name!r}: the name becomes a file's; it may hold no / and not begin "
                "with a dot.",
            )
        judged = self.reward is not None or self.reward_model is None
        for name in ("pass_k", "kinds"):
            require(
                judged or name not in self.given,
                f"--{name} needs right and wrong responses, and a reward model has no such score. "
                "Add --reward math or a function that returns 0 or 1, or remove the flag.",
            )
        require(
            self.epsilon is None or "Sinkhorn" in self.divergences,
            "--epsilon is of the Sinkhorn divergence: add --divergences KL Sinkhorn, or remove it.",
        )
        require(
            "divergences" not in self.given or bool(self.reference_models),
            "--divergences are measured from --reference_models: give one, or remove the flag.",
        )
        if self.reward is not None:
            require(
                not names_reward(self.reward, REWARD_MODEL),
                "--reward reward_model: name the model's folder with --reward_model instead.",
            )
        self.check_stops()
        self.validate_parts()


COMPARE = CommandLine(CompareConfig, positional="files")


@dataclass
class PlotConfig(Settings):
    """Which runs to draw, and where to."""

    runs: list[str] = flag(
        [],
        "Folders of runs (their --output_dir); the flag itself may be left out. Required.",
    )
    output: str = flag("plots", "Folder for curves.png, frontier.png and their numbers as .csv.")
    divergence: str | None = flag(
        None,
        "Horizontal axis of the frontier. kl: KL from the reference, exact at every token; "
        "kl_sampled: the log-ratio of the sampled responses, an unbiased estimate of the same; "
        "own: each run's own penalty, if it is the same for all; or the name of a metric. Unset: "
        "kl if all runs log it, else kl_sampled.",
    )

    def validate(self) -> None:
        """Refuse what is missing; raises `UserError`."""
        require(
            bool(self.runs),
            "Give one or more folders of runs: plot_runs.py RUN ... [--output FOLDER].",
        )


PLOT = CommandLine(PlotConfig, positional="runs")
