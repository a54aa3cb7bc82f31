"""From models or files of responses to figures, a page and a text: what `compare.py` does."""

from __future__ import annotations

from pathlib import Path

from dschat.evaluation.comparison.figures import Figures, Measuring, figures_of
from dschat.evaluation.comparison.page import page
from dschat.evaluation.comparison.pairing import Aligned, read_aligned
from dschat.evaluation.comparison.report import figures_text, pairs_text, samples_text
from dschat.evaluation.comparison.rouge import read_references, rouge_scores
from dschat.evaluation.runs.plot import plot_runs
from dschat.runtime.files import atomic_write_json, atomic_write_text
from dschat.settings.comparison import CompareConfig, PlotConfig

SAMPLES = 3
"""Prompts whose responses are printed where models have responded."""


def compare(config: CompareConfig) -> Figures:
    """Let models respond if there are any, compare, print the figures, and write all files.

    Raises:
        UserError: a model, the data or a file cannot be used, or prompts do not match.
    """
    greedy: Aligned | None = None
    if config.files:
        aligned = read_aligned(config.files, config.allow_unpaired)
    else:
        from dschat.evaluation.comparison.respond import respond

        aligned, greedy = respond(config)
    rouge = {}
    if config.references is not None:
        references = read_references(config.references, aligned)
        rouge = rouge_scores(aligned, references, config.stemmer)
    kinds = [pair.split("=", 1)[0] for pair in config.kinds]
    how = Measuring(config.seed, config.resamples, config.pass_k, kinds)
    figures = figures_of(aligned, how, rouge, greedy)
    text = figures_text(figures)
    shown = aligned.largest(config.num_shown)
    output = Path(config.output)
    atomic_write_text(output / "comparison.html", page(figures, aligned, shown))
    atomic_write_text(output / "comparison.txt", text + "\n" + pairs_text(aligned, shown))
    atomic_write_json(
        output / "comparison.json", {"settings": config.as_flags(), "figures": figures.as_json()}
    )
    print(text)
    written = "comparison.html, comparison.txt, comparison.json"
    if not config.files:
        from dschat.evaluation.comparison.picture import draw

        print(samples_text(aligned, range(min(SAMPLES, len(aligned.lines)))))
        draw(figures, output / "comparison.png")
        written += ", comparison.png and each model's responses"
    if config.runs:
        plot_runs(PlotConfig(runs=config.runs, output=config.output))
    print(f"Written to {output.resolve()}: {written}")
    return figures
