"""A language model judges every pair, from the settings to the table."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from dschat.errors import UserError
from dschat.evaluation.judging.client import (
    JudgeClient,
    JudgeSettings,
    NoAnswer,
    estimate_cost,
    server_name,
)
from dschat.evaluation.judging.instructions import Verdict, judge_messages
from dschat.evaluation.judging.pairs import Pair, first_shown, in_order, read_pairs, winner_of
from dschat.evaluation.judging.records import Records, record_of
from dschat.evaluation.judging.report import figures_of, report_text
from dschat.settings.command_line import require
from dschat.settings.judging import JudgeConfig

# After this many questions in a row without an answer the server is taken to be down.
MOST_FAILURES_IN_A_ROW = 8
NO_TERMINAL = (
    "Nobody is there to be asked whether to start: the standard input is no terminal. Add --yes to "
    "start without the question."
)
NOT_STARTED = "Not started, as answered. No request was made."
WAITING = "\nStopping: the questions under way are waited for (Ctrl-C again: they are lost)."
STOPPED = "Stopped. Finished judgments are kept: the same command resumes."


def judge_pairs(config: JudgeConfig) -> dict[str, Any]:
    """Judge what is not judged yet, into the output file; print the table.

    Returns:
        The figures (see `figures_of`), which are written beside the output too.

    Raises:
        UserError: anything in the settings, the files or the server that the user can mend; also
            where some pairs got no answer, after the others have been written.
    """
    pairs = read_pairs(str(config.model_name_a), str(config.model_name_b), config.num_sample)
    with Records(str(config.output), pairs, _settings(config), config.overwrite) as records:
        todo = records.todo()
        if len(todo) < len(pairs):
            print(f"{len(pairs) - len(todo)} of {len(pairs)} pairs are judged already.")
        failures: list[str] = []
        if todo:
            client = JudgeClient(config.sk, _sent(config))
            try:
                _confirm(config, todo)
                records.begin()
                failures = _judge_all(config, client, todo, records)
            finally:
                client.close()
        if not records.done:
            raise UserError(f"No pair got an answer; the last: {failures[-1]}.")
        figures = figures_of(records.done[line] for line in sorted(records.done))
        records.finish(figures)
    print(f"A: {config.model_name_a}\nB: {config.model_name_b}\nJudge: {config.judge_model}")
    print(report_text(figures, config.both_orders))
    print(f"Written: {config.output} and {records.summary.name}", flush=True)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(pairs)} pairs got no answer and are in no figure; the last: "
            f"{failures[-1]}. The same command asks for these only."
        )
    return figures


def _settings(config: JudgeConfig) -> dict[str, Any]:
    """All that decides a judgment besides the pair. The key is not among it."""
    instructions = judge_messages(str(config.dataset), "", "", "")[0]["content"]
    return {
        "judge": config.judge_model,
        "server": server_name() or "api.openai.com",
        "dataset": config.dataset,
        "both_orders": config.both_orders,
        "judge_temperature": config.judge_temperature,
        "judge_max_tokens": config.judge_max_tokens,
        "seed": config.seed,
        "instructions": hashlib.sha256(instructions.encode()).hexdigest()[:12],
    }


def _sent(config: JudgeConfig) -> JudgeSettings:
    return JudgeSettings(
        config.judge_model,
        str(config.dataset),
        config.judge_temperature,
        config.judge_max_tokens,
        config.max_retries,
        config.timeout,
    )


def _orders(config: JudgeConfig, pair: Pair) -> str:
    """Which model is shown first, in each of the questions about a pair."""
    first = first_shown(pair, config.seed)
    return ("AB" if first == "A" else "BA") if config.both_orders else first


def _messages(config: JudgeConfig, pair: Pair, first: str) -> list[dict[str, str]]:
    return judge_messages(str(config.dataset), pair.prompt, *in_order(pair, first))


def _confirm(config: JudgeConfig, todo: Sequence[Pair]) -> None:
    """Tell the cost and, without --yes, ask."""
    chats = [_messages(config, pair, first) for pair in todo for first in _orders(config, pair)]
    own_server = server_name() not in (None, "api.openai.com")
    print(estimate_cost(chats, str(config.dataset), config.judge_model, own_server), flush=True)
    if config.yes:
        return
    require(sys.stdin is not None and sys.stdin.isatty(), NO_TERMINAL)
    try:  # Ctrl-C may come as soon as the question is seen
        print("Start? [y/N] ", end="", flush=True)
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        raise UserError(NOT_STARTED) from None
    require(answer.strip().lower() in ("y", "yes"), NOT_STARTED)


def _judge_all(
    config: JudgeConfig, client: JudgeClient, todo: Sequence[Pair], records: Records
) -> list[str]:
    """Judge the pairs, several at a time, and write each as it is done; why others failed."""
    failures: list[str] = []
    in_a_row = 0
    pending: set[Future[dict[str, Any]]] = set()
    executor = ThreadPoolExecutor(config.concurrency)
    wait = True
    try:
        for pair in todo:
            pending.add(executor.submit(judge_pair, config, client.ask, pair))
        done = as_completed(set(pending))
        for future in tqdm(done, total=len(todo), unit="pair", disable=None):
            try:
                records.append(future.result())
                in_a_row = 0
            except NoAnswer as error:
                failures.append(str(error))
                in_a_row += 1
            pending.discard(future)  # not before: Ctrl-C may come before it is written
            if in_a_row >= MOST_FAILURES_IN_A_ROW:
                raise UserError(
                    f"{in_a_row} questions in a row got no answer; the last: {failures[-1]}. What "
                    "is judged is kept: the same command resumes."
                )
    except KeyboardInterrupt:
        try:  # around the message too: the second Ctrl-C may come while it is being shown
            print(WAITING, file=sys.stderr, flush=True)
            executor.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:
            wait = False
        raise UserError(STOPPED) from None
    finally:
        with contextlib.suppress(KeyboardInterrupt):  # a further Ctrl-C: they are not waited for
            executor.shutdown(wait=wait, cancel_futures=True)
        _keep(pending, records)
    return failures


def _keep(pending: set[Future[dict[str, Any]]], records: Records) -> None:
    """Write what came in while the run was being stopped."""
    for future in pending:
        if future.done() and not future.cancelled() and future.exception() is None:
            record = future.result()
            if record["line"] not in records.done:
                records.append(record)


def judge_pair(
    config: JudgeConfig, ask: Callable[[list[dict[str, str]]], Verdict], pair: Pair
) -> dict[str, Any]:
    """The record of one pair, from one question or from one in each order."""
    answers, comments = [], []
    for first in _orders(config, pair):
        verdict = ask(_messages(config, pair, first))
        answers.append({"first": first, "choice": winner_of(verdict.choice, first)})
        # The judge's own words name the responses by their order, not by their model.
        swapped = "(shown to the judge swapped, B as A) " if first == "B" else ""
        comments.append(swapped + verdict.comment if verdict.comment else "")
    comment = " | ".join(c for c in comments if c)
    winners = {answer["choice"] for answer in answers}
    if None in winners:
        return record_of(pair, None, "unparsable", comment, answers)
    if len(winners) > 1:
        return record_of(pair, "Tie", "disagreement", comment, answers)
    return record_of(pair, str(winners.pop()), "judged", comment, answers)
