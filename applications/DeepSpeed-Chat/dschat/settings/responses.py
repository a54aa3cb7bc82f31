"""The settings of `compare.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dschat.settings.command_line import CommandLine, flag, require


@dataclass
class CompareConfig:
    """Which files to compare, and how."""

    files: list[str] = flag(
        [],
        "Two files of lines {prompt, response, reward}, as inference_with_rewards.py writes; the "
        "flag itself may be left out. Required.",
    )
    output: str = flag(
        "comparison",
        "Folder for comparison.html, comparison.txt and comparison.json; made if need be.",
    )
    references: str | None = flag(
        None,
        "Measure ROUGE against these: a file of lines {prompt, reference} (or chosen, or response, "
        "in the place of reference), or a data set, by the names and paths of --data_path, whose "
        "preferred responses are taken. Unset: no ROUGE.",
    )
    stemmer: bool = flag(
        False, "ROUGE compares the stems of words (Porter), not the words (--references)."
    )
    allow_unpaired: bool = flag(
        False,
        "Leave out prompts that stand in one file only, and count them; else they are refused.",
    )
    resamples: int = flag(9999, "Resamples of the bootstrap intervals.")
    seed: int = flag(42, "Seed of the resampling.")
    num_shown: int = flag(10, "So many pairs with the largest differences are shown.")

    def validate(self) -> None:
        """Refuse what is missing or cannot be meant; raises `UserError`."""
        require(
            len(self.files) == 2,
            f"{len(self.files)} files are given; expected two: compare.py A.jsonl B.jsonl.",
        )
        a, b = (Path(path).resolve() for path in self.files)
        require(a != b, f"{self.files[0]} is given twice. Give the responses of two models.")
        require(self.resamples >= 100, f"--resamples {self.resamples}: expected 100 or more.")
        require(self.num_shown >= 0, f"--num_shown {self.num_shown}: expected 0 or more.")
        require(self.seed >= 0, f"--seed {self.seed}: expected 0 or more.")
        require(
            not self.stemmer or self.references is not None,
            "--stemmer is of ROUGE, which is measured with --references only. Remove it.",
        )


COMPARE = CommandLine(CompareConfig, positional="files")
