"""The settings of `sample_from_dataset.py`, `gpt4-eval.py` and `human-eval.py`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dschat.errors import UserError
from dschat.settings.command_line import REPLACED_FLAGS, CommandLine, flag, require
from dschat.settings.secrets import redact

KEY_VARIABLE = "OPENAI_API_KEY"
KEY_IN_A_FILE = (
    "a key does not belong in a file of settings. Remove the line and set the environment variable "
    f"{KEY_VARIABLE}, or give --sk on the command line"
)
RESPONSES_FILE = "File of lines {prompt, response, reward}, as inference_with_rewards.py writes."


@dataclass
class SampleConfig:
    """What to draw from a file of responses."""

    filepath: str | None = flag(None, RESPONSES_FILE + " Required.", aliases=["data_path"])
    savepath: str | None = flag(None, "File for the sample. Required.", aliases=["save_path"])
    dataset: Literal["summarize", "hh-rlhf", "webgpt"] | None = flag(
        None, "For summarize the sample is spread over the subreddits. Required."
    )
    num_sample: int = flag(50, "Lines to draw; all of them where there are fewer.")
    per_subreddit: int = flag(5, "summarize: at most so many posts of one subreddit.")
    seed: int = flag(
        42,
        "Two files of responses to the same prompts give the same prompts in the same order under "
        "one seed.",
    )

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        _require_given(self, "filepath", "savepath", "dataset")
        _require_positive(self, "num_sample", "per_subreddit")
        _refuse_overwriting("savepath", str(self.savepath), str(self.filepath))


@dataclass
class JudgeConfig:
    """Which judge compares which responses."""

    sk: str | None = field(
        default=None,
        repr=False,
        metadata={
            "help": f"Key of the API; better in the environment variable {KEY_VARIABLE}, because "
            "other users of the machine can read a command line. OPENAI_BASE_URL names any "
            "compatible server."
        },
    )
    model_name_a: str | None = flag(None, "Model A: " + RESPONSES_FILE + " Required.")
    model_name_b: str | None = flag(
        None, "Model B: a file with the same prompts on the same lines. Required."
    )
    dataset: Literal["summarize", "hh-rlhf"] | None = flag(
        None,
        "summarize: relevance, coherence, consistency and fluency, answered by one letter; "
        "hh-rlhf: helpfulness, answered by a JSON object with reasons. Required.",
    )
    output: str | None = flag(
        None, "File for the judgments. A second start goes on with it. Required."
    )
    num_sample: int | None = flag(None, "Only so many pairs, the first ones; unset: all.")
    judge_model: str = flag("gpt-4o-2024-05-13", "Model that judges.")
    both_orders: bool = flag(
        False,
        "Ask twice, each response shown first once: a response wins only if both answers say so.",
    )
    concurrency: int = flag(8, "Requests at a time.")
    max_retries: int = flag(5, "Further tries of a request that was refused for the moment.")
    timeout: float = flag(
        60.0, "Seconds of silence of the server after which a request is tried again."
    )
    judge_temperature: float = flag(
        0.0, "Sampling temperature of the judge; below 0: the server's own default."
    )
    judge_max_tokens: int = flag(512, "Most tokens of an answer; a longer one is unparsable.")
    seed: int = flag(42, "Seed of the order in which a pair is shown.")
    yes: bool = flag(False, "Start without asking, whatever it will cost.")
    overwrite: bool = flag(False, "Start anew where there are judgments already.")

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        _require_given(self, "model_name_a", "model_name_b", "dataset", "output")
        _require_positive(self, "concurrency", "judge_max_tokens")
        if self.num_sample is not None:
            _require_positive(self, "num_sample")
        require(self.max_retries >= 0, f"--max_retries {self.max_retries}: expected 0 or more.")
        require(self.timeout > 0, f"--timeout {self.timeout}: expected more than 0 seconds.")
        inputs = (str(self.model_name_a), str(self.model_name_b))
        _refuse_same_inputs("model_name", *inputs)
        _refuse_overwriting("output", str(self.output), *inputs)


@dataclass
class HumanConfig:
    """Which responses a person compares."""

    model_a: str | None = flag(None, "Model A: " + RESPONSES_FILE + " Required.")
    model_b: str | None = flag(
        None, "Model B: a file with the same prompts on the same lines. Required."
    )
    dataset: Literal["summarize", "hh-rlhf", "webgpt"] | None = flag(
        None, "summarize: also a table by subreddit. Required."
    )
    output: str | None = flag(
        None, "File for the judgments. A second start goes on with it. Required."
    )
    num_sample: int | None = flag(None, "Only so many pairs, the first ones; unset: all.")
    seed: int = flag(42, "Seed of the order in which a pair is shown.")
    overwrite: bool = flag(False, "Start anew where there are judgments already.")

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        _require_given(self, "model_a", "model_b", "dataset", "output")
        if self.num_sample is not None:
            _require_positive(self, "num_sample")
        inputs = (str(self.model_a), str(self.model_b))
        _refuse_same_inputs("model", *inputs)
        _refuse_overwriting("output", str(self.output), *inputs)


class JudgeCommandLine(CommandLine[JudgeConfig]):
    """Keeps the key away from the parser, and so from its messages and --help."""

    def parse(
        self, argv: Sequence[str] | None = None, description: str | None = None
    ) -> JudgeConfig:
        """See `CommandLine.parse`.

        Raises:
            UserError: also for a key in a config file; the key is in no message.
        """
        rest = list(sys.argv[1:] if argv is None else argv)
        key = _take_key(rest)
        environment = os.environ.get(KEY_VARIABLE)
        told = io.StringIO()  # the parser repeats an invalid value, such as a misplaced key
        try:
            with contextlib.redirect_stderr(told):
                config = super().parse(rest, description)
        except UserError as error:
            raise UserError(redact(str(error), key, environment)) from None
        finally:
            print(redact(told.getvalue(), key, environment), end="", file=sys.stderr)
        config.sk = key or environment
        return config


JUDGE = JudgeCommandLine(JudgeConfig, refused={**REPLACED_FLAGS, "sk": KEY_IN_A_FILE})


def _take_key(arguments: list[str]) -> str | None:
    """Remove `--sk KEY` or `--sk=KEY` from the arguments; the last one counts."""
    key = None
    while True:
        at = next((i for i, a in enumerate(arguments) if a.split("=", 1)[0] == "--sk"), None)
        if at is None:
            return key
        argument = arguments.pop(at)
        if "=" in argument:
            key = argument.split("=", 1)[1]
        else:
            require(at < len(arguments), "--sk stands without a key.")
            require(
                not arguments[at].startswith("--"),
                "--sk stands without a key: another flag follows it.",
            )
            key = arguments.pop(at)


def _require_given(config: object, *names: str) -> None:
    for name in names:
        require(bool(getattr(config, name)), f"Give --{name}; --help says what it is.")


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"--{name} {value}: expected 1 or more.")


def _refuse_same_inputs(name: str, a: str, b: str) -> None:
    require(
        Path(a).resolve() != Path(b).resolve(),
        f"--{name}_a and --{name}_b are one file, {a}. Give the responses of two models.",
    )


def _refuse_overwriting(name: str, output: str, *inputs: str) -> None:
    for path in inputs:
        require(
            Path(output).resolve() != Path(path).resolve(),
            f"--{name} {output} is an input too, and would be lost. Give another file.",
        )
