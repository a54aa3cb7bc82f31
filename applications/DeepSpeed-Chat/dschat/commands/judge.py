"""Judge responses: by a language model, by a person; and draw the sample that is judged."""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.judging import JUDGE, HumanConfig, SampleConfig

BY_HAND = CommandLine(HumanConfig)
SAMPLE = CommandLine(SampleConfig)


def main(description: str | None = __doc__) -> None:
    """Parse the flags and ask a language model."""

    def run() -> None:
        config = JUDGE.parse(description=description)

        from dschat.evaluation.judging.judge import judge_pairs

        judge_pairs(config)

    run_script(run)


def by_hand(description: str | None = __doc__) -> None:
    """Parse the flags and ask at the terminal."""

    def run() -> None:
        config = BY_HAND.parse(description=description)

        from dschat.evaluation.judging.human import judge_by_hand

        judge_by_hand(config)

    run_script(run)


def sample(description: str | None = __doc__) -> None:
    """Parse the flags and draw a sample."""

    def run() -> None:
        config = SAMPLE.parse(description=description)

        from dschat.evaluation.judging.sampling import sample_from_dataset

        sample_from_dataset(config)

    run_script(run)
