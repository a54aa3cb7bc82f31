"""A person judges every pair in the terminal, without knowing which model wrote what."""

from __future__ import annotations

from typing import Any

from dschat.errors import printable
from dschat.evaluation.judging.instructions import Choice
from dschat.evaluation.judging.pairs import Pair, first_shown, in_order, read_pairs, winner_of
from dschat.evaluation.judging.records import Records, record_of
from dschat.evaluation.judging.report import figures_of, report_text
from dschat.evaluation.judging.terminal import END, read_key, single_keys
from dschat.settings.judging import HumanConfig

QUESTIONS = {
    "summarize": "Which is the better summary?",
    "hh-rlhf": "Which reply is more helpful?",
    "webgpt": "Which answer is more helpful?",
}
KEYS = "1, 2, t: neither, c: comment, u: undo the last one, q: stop"
CHOICES: dict[str, Choice] = {"1": "first", "2": "second", "t": "tie"}
WIDTH = 72


def judge_by_hand(config: HumanConfig) -> dict[str, Any] | None:
    """Show the pairs that are not judged yet and write the choices.

    Nothing that tells the models apart, the score included, is shown before the last pair is
    judged: a running score could sway the rest.

    Returns:
        The figures (see `figures_of`); None where the person stopped before the end.

    Raises:
        UserError: anything in the settings or the files that the user can mend.
    """
    pairs = read_pairs(str(config.model_a), str(config.model_b), config.num_sample)
    settings = {"judge": "person", "dataset": config.dataset, "seed": config.seed}
    with Records(str(config.output), pairs, settings, config.overwrite) as records:
        if records.todo():
            records.begin()
        if not _ask_all(config, records):
            print(
                f"\nStopped: {len(records.done)} of {len(pairs)} pairs are judged. The same "
                "command resumes."
            )
            return None
        figures = figures_of(records.done[line] for line in sorted(records.done))
        records.finish(figures)
    print(f"\nA: {config.model_a}\nB: {config.model_b}")
    print(report_text(figures))
    print(f"Written: {config.output} and {records.summary.name}")
    return figures


def _ask_all(config: HumanConfig, records: Records) -> bool:
    """Ask until all is judged (True) or the person stops (False)."""
    while todo := records.todo():
        pair = todo[0]
        first = first_shown(pair, config.seed)
        _show(pair, first, len(records.done) + 1, len(records.pairs))
        key, comment = _ask(QUESTIONS[str(config.dataset)], bool(records.done))
        if key == "q":
            return False
        if key == "u":
            records.remove_last()
            continue
        winner = winner_of(CHOICES[key], first)
        answers = [{"first": first, "choice": winner}]
        records.append(record_of(pair, winner, "judged", comment, answers))
    return True


def _show(pair: Pair, first: str, number: int, total: int) -> None:
    parts = [("Prompt", pair.prompt)]
    parts += [(f"Response {i}", r) for i, r in enumerate(in_order(pair, first), start=1)]
    print(f"\n{f' {number} of {total} ':=^{WIDTH}}")
    for title, text in parts:
        print(f"{f' {title} ':-^{WIDTH}}\n{_framed(text)}")
    print("-" * WIDTH)


def _framed(text: str) -> str:
    """The text with a bar before every line: one that draws a frame of its own stays inside."""
    shown = printable(text).strip()
    return "\n".join(f"| {line}" for line in shown.split("\n")) if shown else "(empty)"


def _ask(question: str, can_undo: bool) -> tuple[str, str]:
    """One of 1, 2, t, u and q, and the comment."""
    comment = ""
    while True:
        try:
            with single_keys():
                print(f"{question} [{KEYS}] ", end="", flush=True)
                key = read_key().lower()
            if key == END:
                return "q", comment
            print(key if key.isprintable() else "?", flush=True)
            if key == "c":
                comment = printable(input("Comment: ")).strip()
        except (KeyboardInterrupt, EOFError):
            return "q", comment
        if key in CHOICES or key == "q" or (key == "u" and can_undo):
            return key, comment
        if key == "u":
            print("Nothing is judged yet.")
        elif key != "c":
            print("No such key.")
