"""Which prompts are answered: held-out ones, in an order that is the same for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dschat.config import require
from dschat.data.load import load_data
from dschat.data.prompts import PromptExample
from dschat.data.sources import SOURCES
from dschat.data.text import conversation_text, prompt_ids
from dschat.errors import UserError
from dschat.inference.config import DATASETS, InferenceConfig
from dschat.training.distributed import log_main


def choose_prompts(config: InferenceConfig, tokenizer: Any) -> list[PromptExample]:
    """The first `num_samples` short enough prompts of the shuffled evaluation split.

    The raw rows are shuffled before any is left out, as `datasets` shuffles with that seed. So
    files of different models, and of --ref-scores, have their prompts in one order.

    Returns:
        Prompts with their tokens by `tokenizer`; `example` has the `prompt` as it is in the data
        and, with --ref-scores, the data set's own responses `chosen` and `rejected`.

    Raises:
        UserError: an unknown data set, or none of its prompts can be used.
    """
    _check_name(config.dataset)
    pairs = config.ref_scores
    phase, split = ("reward", "0,1,0") if pairs else ("rl", "0,0,1")
    data = load_data([config.data_name], phase, split, config.data_seed, config.cache)  # type: ignore[arg-type]
    rows, report = data.eval, data.report.sources[0].eval
    require(
        len(rows) > 0,
        f"--dataset {config.dataset}: there are no held-out prompts. Put a test.jsonl beside "
        "train.jsonl, or give more data (5 % are held out).",
    )
    if report.selected < report.raw:
        log_main(
            f"{config.dataset} has no evaluation split: {report.selected} of its {report.raw} rows "
            f"are held out (--data-seed {config.data_seed})."
        )
    order = np.random.default_rng(config.data_seed).permutation(report.raw)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    shuffled = rows.select(np.argsort(place[np.asarray(rows["row"])], kind="stable"))
    prompts = list(shuffled["prompt"])
    encoded = prompt_ids(tokenizer, prompts)
    short = [i for i, ids in enumerate(encoded) if len(ids) <= config.max_prompt_tokens]
    require(
        len(short) > 0,
        f"None of the {len(prompts)} prompts has {config.max_prompt_tokens} tokens or fewer; the "
        f"shortest has {min(map(len, encoded))}. Raise --max-prompt-tokens.",
    )
    chosen = short[: config.num_samples]
    log_main(
        f"{len(chosen)} of {len(prompts)} held-out prompts of {config.dataset} "
        f"({len(prompts) - len(short)} are longer than --max-prompt-tokens "
        f"{config.max_prompt_tokens})"
    )
    names = ("prompt", "chosen", "rejected") if pairs else ("prompt",)
    return [
        PromptExample(
            encoded[i],
            conversation_text(row["prompt"], tokenizer),
            {name: row[name] for name in names},
        )
        for i, row in zip(chosen, shuffled.select(chosen), strict=True)
    ]


def _check_name(dataset: str) -> None:
    if dataset in DATASETS or dataset in SOURCES or Path(dataset).expanduser().exists():
        return
    raise UserError(
        f"--dataset {dataset}: neither one of {', '.join(DATASETS)} nor a file or folder on this "
        f"machine (looked in {Path.cwd()})."
    )
