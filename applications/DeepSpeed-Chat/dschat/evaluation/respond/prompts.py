"""Which prompts are answered: held-out ones, in an order that is the same for every model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dschat.data.load import LoadedData, load_data
from dschat.data.prompts import PromptExample
from dschat.data.rows import Phase
from dschat.data.sources import SOURCES
from dschat.data.text import conversation_text, prompt_ids, warn_of_missing_template
from dschat.errors import UserError
from dschat.runtime.distributed import log_main
from dschat.settings.command_line import require
from dschat.settings.inference import InferenceConfig, InferenceFlags

if TYPE_CHECKING:
    import datasets


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
    pairs = config.ref_scores
    data = read_data(config, "reward" if pairs else "rl")
    warn_of_missing_template(data.eval, tokenizer)
    rows = shuffled_rows(config, data)
    chosen = short_enough(config, rows, tokenizer)[: config.num_samples]
    log_chosen(config, len(chosen), len(rows))
    names = ("prompt", "chosen", "rejected") if pairs else ("prompt",)
    return [
        PromptExample(
            ids,
            conversation_text(row["prompt"], tokenizer),
            {name: row[name] for name in names},
            conversation=row["prompt"],
        )
        for (_, ids), row in zip(chosen, rows.select([i for i, _ in chosen]), strict=True)
    ]


def read_data(config: InferenceFlags, phase: Phase) -> LoadedData:
    """The data set, all of whose training rows go to that phase (they are not used).

    Raises:
        UserError: an unknown data set, or one of no use for the phase.
    """
    _check_name(config)
    split = {"sft": "1,0,0", "reward": "0,1,0", "rl": "0,0,1"}[phase]
    return load_data(
        [config.data_name],
        phase,
        split,
        config.data_seed,
        config.cache,
        apply_chat_template=config.apply_chat_template,
    )


def shuffled_rows(config: InferenceFlags, data: LoadedData) -> datasets.Dataset:
    """The evaluation rows in an order that depends on `data_seed` and the raw rows alone.

    Raises:
        UserError: there are none.
    """
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
    return rows.select(np.argsort(place[np.asarray(rows["row"])], kind="stable"))


def short_enough(
    config: InferenceFlags, rows: datasets.Dataset, tokenizer: Any
) -> list[tuple[int, list[int]]]:
    """Places and token ids of the prompts of at most `max_prompt_tokens` tokens.

    Raises:
        UserError: all are longer.
    """
    encoded = prompt_ids(tokenizer, list(rows["prompt"]))
    short = [(i, ids) for i, ids in enumerate(encoded) if len(ids) <= config.max_prompt_tokens]
    require(
        len(short) > 0,
        f"None of the {len(encoded)} prompts has {config.max_prompt_tokens} tokens or fewer; the "
        f"shortest has {min(map(len, encoded))}. Raise --max-prompt-tokens.",
    )
    if len(short) < len(encoded):
        log_main(
            f"{len(encoded) - len(short)} prompts are longer than --max-prompt-tokens "
            f"{config.max_prompt_tokens} and left out"
        )
    return short


def log_chosen(config: InferenceFlags, chosen: int, there: int) -> None:
    """Say how many prompts are answered."""
    log_main(f"{chosen} of {there} held-out prompts of {config.dataset}")


def _check_name(config: InferenceFlags) -> None:
    name, names = config.dataset, config.short_names
    if name in names or name in SOURCES or Path(name).expanduser().exists():
        return
    raise UserError(
        f"--dataset {name}: neither {'one of ' * (len(names) > 1)}{', '.join(names)} nor a file or "
        f"folder on this machine (looked in {Path.cwd()})."
    )
