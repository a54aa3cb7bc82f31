"""From two files of responses to figures, a page and a text: what `compare.py` does."""

from __future__ import annotations

from pathlib import Path

from dschat.evaluation.responses.figures import figures_of, largest
from dschat.evaluation.responses.page import page
from dschat.evaluation.responses.pairing import read_paired
from dschat.evaluation.responses.report import figures_text, pairs_text
from dschat.evaluation.responses.rouge import read_references, rouge_scores
from dschat.runtime.files import atomic_write_json, atomic_write_text
from dschat.settings.responses import CompareConfig


def compare(config: CompareConfig) -> None:
    """Compare, print the figures, and write all three files.

    Raises:
        UserError: a file cannot be used, or prompts do not match.
    """
    paired = read_paired(config.files[0], config.files[1], config.allow_unpaired)
    scores = {}
    if config.references is not None:
        references = read_references(config.references, paired.pairs)
        scores = rouge_scores(paired.pairs, references, config.stemmer)
    figures = figures_of(paired.pairs, paired.unpaired, scores, config.seed, config.resamples)
    shown = largest(paired.pairs, config.num_shown)
    text = figures_text(figures, paired.names)
    output = Path(config.output)
    atomic_write_text(output / "comparison.html", page(figures, shown, paired.names))
    atomic_write_text(output / "comparison.txt", text + "\n" + pairs_text(shown))
    atomic_write_json(
        output / "comparison.json", {"settings": vars(config), "figures": figures.as_json()}
    )
    print(text)
    print(f"Written to {output.resolve()}: comparison.html, comparison.txt, comparison.json")
