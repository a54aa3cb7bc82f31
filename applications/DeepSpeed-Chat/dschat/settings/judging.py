"""The settings of `sample_from_dataset.py`, `gpt4-eval.py` and `human-eval.py`, and their API key.

The key is kept out of everything that is shown or written.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dschat.errors import UserError
from dschat.settings.command_line import REPLACED_FLAGS, CommandLine, Settings, flag, require
from dschat.settings.flags import require_at_least

KEY_VARIABLE = "OPENAI_API_KEY"
KEY_IN_A_FILE = (
    "a key does not belong in a file of settings. Remove the line and set the environment variable "
    f"{KEY_VARIABLE}, or give --sk on the command line"
)
RESPONSES_FILE = "File of lines {prompt, response, reward}, as inference_with_rewards.py writes."
MASK = "[key]"
# A shorter key is a placeholder for a server that needs none, and may occur inside words by chance.
SHORTEST_SECRET = 8
# Keys of the usual providers: a server's message may contain the key of another account.
KEY_PATTERN = re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_*-]{6,}")


@dataclass
class SampleConfig(Settings):
    """What to draw from a file of responses."""

    filepath: str | None = flag(None, RESPONSES_FILE + " Required.", aliases=["data_path"])
    savepath: str | None = flag(None, "File for the sample. Required.", aliases=["save_path"])
    dataset: Literal["summarize", "hh-rlhf", "webgpt"] | None = flag(
        None, "For summarize the sample is spread over the subreddits. Required."
    )
    num_sample: int = flag(50, "Number of lines to draw; all of them if there are fewer.")
    per_subreddit: int = flag(5, "summarize: maximum number of posts of one subreddit.")
    seed: int = flag(
        42,
        "Seed of the draw. Files of responses to the same prompts give the same prompts in the "
        "same order.",
    )

    def validate(self) -> None:
        """Check the values and that nothing is missing; raises `UserError`."""
        _require_given(self, "filepath", "savepath", "dataset")
        require_at_least(self, 1, "num_sample", "per_subreddit")
        _refuse_overwriting("savepath", str(self.savepath), str(self.filepath))


@dataclass
class JudgeConfig(Settings):
    """Which judge compares which responses."""

    model_name_a: str | None = flag(
        None, "Model A: " + RESPONSES_FILE + " Required.", group="Responses"
    )
    model_name_b: str | None = flag(
        None, "Model B: a file with the same prompts on the same lines. Required."
    )
    dataset: Literal["summarize", "hh-rlhf"] | None = flag(
        None,
        "summarize: relevance, coherence, consistency and fluency, answered by one letter; "
        "hh-rlhf: helpfulness, answered by a JSON object with reasons. Required.",
    )
    output: str | None = flag(
        None, "File for the judgments. An incomplete one is resumed. Required."
    )
    num_sample: int | None = flag(None, "Number of pairs, the first ones; unset: all.")
    overwrite: bool = flag(False, "Replace existing judgments.")
    judge_model: str = flag("gpt-4o-2024-05-13", "Model that judges.", group="Judge")
    both_orders: bool = flag(
        False,
        "Ask twice, once in each order: a response wins only if both answers agree.",
    )
    judge_temperature: float = flag(
        0.0, "Sampling temperature of the judge; below 0: the server's own default."
    )
    judge_max_tokens: int = flag(
        512, "Maximum length of an answer, in tokens; a longer one cannot be parsed."
    )
    seed: int = flag(42, "Seed of the order in which a pair is shown.")
    sk: str | None = field(
        default=None,
        repr=False,
        metadata={
            "help": f"Key of the API; better in the environment variable {KEY_VARIABLE}, because "
            "other users of the machine can read a command line. OPENAI_BASE_URL names any "
            "compatible server.",
            "group": "Requests",
        },
    )
    yes: bool = flag(False, "Do not ask for confirmation of the cost.")
    concurrency: int = flag(8, "Number of simultaneous requests.")
    max_retries: int = flag(5, "Number of retries of a request that was refused temporarily.")
    timeout: float = flag(60.0, "Seconds without an answer after which a request is retried.")

    def validate(self) -> None:
        """Check the values and that nothing is missing; raises `UserError`."""
        _require_given(self, "model_name_a", "model_name_b", "dataset", "output")
        require_at_least(self, 1, "concurrency", "judge_max_tokens", "num_sample")
        require_at_least(self, 0, "max_retries")
        require(self.timeout > 0, f"--timeout {self.timeout}: expected more than 0 seconds.")
        inputs = (str(self.model_name_a), str(self.model_name_b))
        _refuse_same_inputs("model_name", *inputs)
        _refuse_overwriting("output", str(self.output), *inputs)


@dataclass
class HumanConfig(Settings):
    """Which responses a person compares."""

    model_a: str | None = flag(None, "Model A: " + RESPONSES_FILE + " Required.")
    model_b: str | None = flag(
        None, "Model B: a file with the same prompts on the same lines. Required."
    )
    dataset: Literal["summarize", "hh-rlhf", "webgpt"] | None = flag(
        None, "summarize: also a table by subreddit. Required."
    )
    output: str | None = flag(
        None, "File for the judgments. An incomplete one is resumed. Required."
    )
    num_sample: int | None = flag(None, "Number of pairs, the first ones; unset: all.")
    seed: int = flag(42, "Seed of the order in which a pair is shown.")
    overwrite: bool = flag(False, "Replace existing judgments.")

    def validate(self) -> None:
        """Check the values and that nothing is missing; raises `UserError`."""
        _require_given(self, "model_a", "model_b", "dataset", "output")
        require_at_least(self, 1, "num_sample")
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
        messages = io.StringIO()  # the parser repeats an invalid value, such as a misplaced key
        try:
            with contextlib.redirect_stderr(messages):
                config = super().parse(rest, description)
        except UserError as error:
            raise UserError(redact(str(error), key, environment)) from None
        finally:
            print(redact(messages.getvalue(), key, environment), end="", file=sys.stderr)
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
            require(at < len(arguments), "--sk needs a key.")
            require(
                not arguments[at].startswith("--"),
                "--sk needs a key; another flag follows it.",
            )
            key = arguments.pop(at)


def _require_given(config: object, *names: str) -> None:
    for name in names:
        require(bool(getattr(config, name)), f"Give --{name}; --help says what it is.")


def _refuse_same_inputs(name: str, a: str, b: str) -> None:
    require(
        Path(a).resolve() != Path(b).resolve(),
        f"--{name}_a and --{name}_b are the same file, {a}. Give the responses of two models.",
    )


def _refuse_overwriting(name: str, output: str, *inputs: str) -> None:
    for path in inputs:
        require(
            Path(output).resolve() != Path(path).resolve(),
            f"--{name} {output} is also an input, and would be overwritten. Give another file.",
        )


def redact(text: str, *keys: str | None) -> str:
    """`text` without the keys, and without anything that looks like one."""
    for key in keys:
        key = (key or "").strip()
        if len(key) >= SHORTEST_SECRET:
            text = text.replace(key, MASK)
        elif key:
            text = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", MASK, text)
    return KEY_PATTERN.sub(MASK, text)


def checked_key(key: str | None) -> str:
    """The key without white space around it.

    Raises:
        UserError: there is none, or it has characters that are not allowed in an HTTP header.
    """
    key = (key or "").strip()
    if not key:
        raise UserError(
            "There is no API key. Set the environment variable OPENAI_API_KEY or give --sk (any "
            "word if your server, named by OPENAI_BASE_URL, needs none)."
        )
    if not all("!" <= c <= "~" for c in key):
        raise UserError(
            "The API key contains a blank or a character outside ASCII; it may have been copied "
            "incompletely. Its text is not repeated here."
        )
    return key
