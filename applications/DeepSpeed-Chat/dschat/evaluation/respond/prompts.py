"""The held-out prompts and programming problems, in an order that is the same for every model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dschat.data.load import LoadedData, load_data
from dschat.data.prompts import PromptExample
from dschat.data.rows import Phase, decode_example
from dschat.data.sources import SOURCES
from dschat.data.text import Prompt, conversation_text, prompt_ids, warn_of_missing_template
from dschat.errors import UserError
from dschat.rewards.code_execution import read_problem
from dschat.runtime.distributed import log_main
from dschat.settings.command_line import require
from dschat.settings.inference import CodeInferenceConfig, InferenceConfig, InferenceFlags

if TYPE_CHECKING:
    import datasets

APPS = "apps"


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
    chosen = short_enough(config.max_prompt_tokens, list(rows["prompt"]), tokenizer)[
        : config.num_samples
    ]
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
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return rows.select(np.argsort(position[np.asarray(rows["row"])], kind="stable"))


def short_enough(limit: int, prompts: list[Prompt], tokenizer: Any) -> list[tuple[int, list[int]]]:
    """Indices and token ids of the prompts of at most `limit` tokens.

    Raises:
        UserError: all are longer.
    """
    encoded = prompt_ids(tokenizer, prompts)
    short = [(i, ids) for i, ids in enumerate(encoded) if len(ids) <= limit]
    require(
        len(short) > 0,
        f"None of the {len(encoded)} prompts has {limit} tokens or fewer; the shortest has "
        f"{min(map(len, encoded))}. Raise --max-prompt-tokens.",
    )
    if len(short) < len(encoded):
        log_main(
            f"{len(encoded) - len(short)} prompts are longer than --max-prompt-tokens {limit} and "
            "left out"
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


def choose_problems(config: CodeInferenceConfig, tokenizer: Any) -> list[PromptExample]:
    """`num_samples` short enough problems of the evaluation split, drawn as prompts are elsewhere.

    Args:
        tokenizer: measures the prompts; None (--ref-scores without --model): none is too long.

    Returns:
        Problems in the data's order. `example` has the row's tests and further fields, its number
        in the data as `row`, and with --ref-scores the data set's first solution as `solution`.

    Raises:
        UserError: an unknown data set, one without tests, or none of its problems can be used.
    """
    data = read_data(config, "rl")
    schema = data.report.sources[0].schema
    require(
        schema == APPS,
        f"--dataset {config.dataset} holds {schema} rows, which have no tests; expected rows as in "
        "codeparrot/apps: question, solutions, input_output.",
    )
    rows = shuffled_rows(config, data)
    if tokenizer is None:
        short: list[tuple[int, list[int]]] = [(i, []) for i in range(len(rows))]
    else:
        short = short_enough(config.max_prompt_tokens, list(rows["prompt"]), tokenizer)
    solutions = _first_solutions(config) if config.ref_scores else None
    chosen: list[tuple[int, PromptExample]] = []
    problem, unusable = "", 0
    for i, ids in short:
        if len(chosen) == config.num_samples:
            break
        row = rows[i]
        try:
            chosen.append((row["row"], _problem(row, ids, tokenizer, solutions)))
        except UserError as error:
            problem, unusable = problem or str(error), unusable + 1
    require(len(chosen) > 0, f"--dataset {config.dataset}: no problem can be used: {problem}")
    if unusable:
        log_main(f"{unusable} problems cannot be used and are left out; the first: {problem}")
    log_chosen(config, len(chosen), len(rows))
    return [example for _, example in sorted(chosen, key=lambda pair: pair[0])]


def _problem(
    row: dict[str, Any], ids: list[int], tokenizer: Any, solutions: dict[int, str] | None
) -> PromptExample:
    """See `choose_problems`.

    Raises:
        UserError: its tests cannot be run, or it has no solution where that is to be run.
    """
    number, example = row["row"], decode_example(row["example"])
    read_problem(example)
    example["row"] = number
    if solutions is not None:
        require(number in solutions, f"row {number} has no solution")
        example["solution"] = solutions[number]
    return PromptExample(ids, conversation_text(row["prompt"], tokenizer), example)


def _first_solutions(config: CodeInferenceConfig) -> dict[int, str]:
    """By the row's number in the data."""
    found: dict[int, str] = {}
    for row in read_data(config, "sft").eval:
        found.setdefault(row["row"], row["chosen"])
    return found
