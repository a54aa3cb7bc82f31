"""Which programming problems are solved: held-out ones, in the order of the data."""

from __future__ import annotations

from typing import Any

from dschat.data.prompts import PromptExample
from dschat.data.rows import decode_example
from dschat.data.text import conversation_text
from dschat.errors import UserError
from dschat.evaluation.respond.prompts import log_chosen, read_data, short_enough, shuffled_rows
from dschat.rewards.code_execution import read_problem
from dschat.runtime.distributed import log_main
from dschat.settings.command_line import require
from dschat.settings.inference import CodeInferenceConfig

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
    if tokenizer is None:
        short: list[tuple[int, list[int]]] = [(i, []) for i in range(len(rows))]
    else:
        short = short_enough(config, rows, tokenizer)
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
