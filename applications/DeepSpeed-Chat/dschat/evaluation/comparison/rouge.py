"""ROUGE of responses against reference texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dschat.evaluation.comparison.pairing import Aligned, head
from dschat.runtime.files import read_jsonl
from dschat.settings.command_line import require

NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
REFERENCE_FIELDS = ("reference", "chosen", "response")
WHOLE_SPLIT = "1,0,0"

References = dict[str, list[str]]


def read_references(given: str, aligned: Aligned) -> References:
    """The reference texts of each prompt, from a file or a data set.

    A prompt may have several: those that differ are kept.

    Raises:
        UserError: the file or data set cannot be used, or a prompt has no reference in it.
    """
    prompts = aligned.prompts
    wanted = set(prompts)
    found: References = {}
    for prompt, text in _texts(given):
        if prompt in wanted and text not in found.setdefault(prompt, []):
            found[prompt].append(text)
    missing = [i for i, prompt in enumerate(prompts) if prompt not in found]
    if missing:
        require(
            False,
            f"--references {given}: {len(wanted - found.keys())} of {len(wanted)} prompts have no "
            f"reference there; the first is that of row {aligned.lines[missing[0]]}: "
            f"{head(prompts[missing[0]])}. Prompts are compared character by character: give the "
            "data that they were made from.",
        )
    return found


def _texts(given: str) -> Iterable[tuple[str, str]]:
    """Prompts and reference texts."""
    path = Path(given).expanduser()
    if path.is_file() and path.suffix == ".jsonl":
        rows = read_jsonl(path)
        require(bool(rows), f"--references {given} holds no line.")
        if isinstance(rows[0].get("prompt"), str):
            return [_row_of_file(given, n, row) for n, row in enumerate(rows, start=1)]
    return _rows_of_data(given)


def _row_of_file(given: str, number: int, row: dict[str, Any]) -> tuple[str, str]:
    text = next((row[name] for name in REFERENCE_FIELDS if name in row), None)
    require(
        isinstance(row.get("prompt"), str) and isinstance(text, str),
        f"{given}, row {number}: expected texts as 'prompt' and as one of "
        f"{', '.join(map(repr, REFERENCE_FIELDS))}; found the fields {', '.join(row) or 'none'}.",
    )
    return row["prompt"], str(text)


def _rows_of_data(given: str) -> list[tuple[str, str]]:
    """All rows of a data set, its evaluation split first."""
    from dschat.data.load import load_data
    from dschat.settings.inference import DATASETS

    with tempfile.TemporaryDirectory(prefix="dschat-references-") as cache:
        data = load_data([DATASETS.get(given, given)], "sft", WHOLE_SPLIT, 0, cache)
        rows = [
            (prompt, text)
            for part in (data.eval, data.train)
            for prompt, text in zip(part["prompt"], part["chosen"], strict=True)
            if isinstance(prompt, str)
        ]
    require(
        bool(rows),
        f"--references {given} holds chats: how their prompts look as text depends on a model's "
        "chat template. Give a file of lines {prompt, reference}.",
    )
    return rows


def rouge_scores(
    aligned: Aligned, references: References, stemmer: bool
) -> dict[str, list[list[float]]]:
    """F1 of ROUGE-1, -2 and -L (Lin, 2004) of all models' responses, by the package rouge-score.

    With several references the best one counts, for each measure by itself.

    Returns:
        By measure and model, a number for each response.

    Raises:
        UserError: a reference has no word that the package knows.
    """
    from absl import logging
    from rouge_score import rouge_scorer
    from rouge_score.tokenizers import DefaultTokenizer

    logging.set_verbosity(logging.WARNING)
    tokenizer = DefaultTokenizer(stemmer)
    for prompt, texts in references.items():
        for text in texts:
            require(
                bool(tokenizer.tokenize(text)),
                f"The reference {head(text)} of the prompt {head(prompt)} has no word of the "
                "letters a to z and digits, which are all that the package rouge-score reads: "
                "ROUGE would be 0 whatever the response. Leave out --references.",
            )
    scorer = rouge_scorer.RougeScorer(list(NAMES), use_stemmer=stemmer)
    found: dict[str, list[list[float]]] = {name: [] for name in NAMES.values()}
    for rows in aligned.rows:
        scores = [scorer.score_multi(references[r["prompt"]], r["response"]) for r in rows]
        for key, name in NAMES.items():
            found[name].append([float(score[key].fmeasure) for score in scores])
    return found
