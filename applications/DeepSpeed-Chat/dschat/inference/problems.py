"""Which programming problems are solved: held-out ones, in the order of the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from dschat.config import require
from dschat.data.prompts import PromptExample
from dschat.data.rows import decode_example
from dschat.data.text import conversation_text
from dschat.errors import UserError
from dschat.inference.code_config import CodeInferenceConfig
from dschat.inference.prompts import log_chosen, read_data, short_enough, shuffled_rows
from dschat.rewards.code_execution import read_problem
from dschat.training.distributed import log_main

SCHEMA = "apps"


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
        schema == SCHEMA,
        f"--dataset {config.dataset} holds {schema} rows, which have no tests; expected rows as in "
        "codeparrot/apps: question, solutions, input_output.",
    )
    rows = shuffled_rows(config, data)
    examples = [decode_example(e) for e in rows["example"]]
    solutions = _first_solutions(config) if config.ref_scores else {}
    usable = _with_tests(config, examples, list(rows["row"]), solutions)
    if tokenizer is None:
        encoded: dict[int, list[int]] = {i: [] for i in range(len(rows))}
    else:
        encoded = dict(short_enough(config, rows, tokenizer))
    places = [i for i in usable if i in encoded]
    require(
        len(places) > 0,
        f"--dataset {config.dataset}: no problem with tests has {config.max_prompt_tokens} tokens "
        "or fewer. Raise --max-prompt-tokens.",
    )
    chosen = places[: config.num_samples]
    log_chosen(config, len(chosen), len(rows))
    chosen.sort(key=lambda i: rows[i]["row"])
    return [
        PromptExample(
            encoded[i],
            conversation_text(row["prompt"], tokenizer),
            {**examples[i], "row": row["row"], "solution": solutions.get(row["row"])},
        )
        for i, row in zip(chosen, rows.select(np.asarray(chosen)), strict=True)
    ]


def _first_solutions(config: CodeInferenceConfig) -> dict[int, str]:
    """By the row's number in the data."""
    found: dict[int, str] = {}
    for row in read_data(config, "sft").eval:
        found.setdefault(row["row"], row["chosen"])
    return found


def _with_tests(
    config: CodeInferenceConfig,
    examples: list[dict[str, Any]],
    rows: list[int],
    solutions: dict[int, str],
) -> list[int]:
    """Places of the examples whose tests can be run, and that have what is to be run.

    Raises:
        UserError: there is none.
    """
    usable, problem = [], ""
    for i, example in enumerate(examples):
        try:
            read_problem(example)
        except UserError as error:
            problem = problem or str(error)
            continue
        if config.ref_scores and rows[i] not in solutions:
            problem = problem or f"row {rows[i]} has no solution"
            continue
        usable.append(i)
    require(len(usable) > 0, f"--dataset {config.dataset}: no problem can be used: {problem}")
    if len(usable) < len(examples):
        log_main(
            f"{len(examples) - len(usable)} problems cannot be used and are left out; the first: "
            f"{problem}"
        )
    return usable
