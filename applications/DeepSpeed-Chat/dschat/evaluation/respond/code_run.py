"""Programs of a policy with their rewards by tests, from the settings to the file and the table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dschat.data.prompts import PromptExample
from dschat.evaluation.respond.partial import PartialResults, Rows, freeze_clock
from dschat.evaluation.respond.policy import Policy, responding
from dschat.evaluation.respond.prompts import choose_problems
from dschat.evaluation.respond.settings import code_settings_of
from dschat.evaluation.respond.stages import Batch, choose_device, policy_tokenizer, run_stage
from dschat.evaluation.tables import figures_table
from dschat.models.loading import resolve_dtype
from dschat.rewards.code_execution import CodeExecutionReward, ProgramResult, code_reward
from dschat.runtime.distributed import log_main, on_all_ranks, quiet_libraries, shut_down
from dschat.runtime.statistics import pass_at_k
from dschat.settings.inference import CodeInferenceConfig

PROGRAMS_PER_WORKER = 8
"""In a batch, which ends with its slowest program, and whose results are written at once."""
DIFFICULTIES = ("introductory", "interview", "competition")
FEW = 5
"""Up to this number, every k is reported."""


def run_code_inference(config: CodeInferenceConfig) -> None:
    """What the script calls: `infer_programs`, and leave the process group."""
    infer_programs(config)
    shut_down()


def infer_programs(config: CodeInferenceConfig) -> dict[str, Any]:
    """Write the output file, or resume it where an earlier run stopped; print the table.

    Returns:
        The summary, which is also written beside the output: `figures` and `settings`.

    Raises:
        UserError: anything in the settings, the data, the model, the sandbox or the disk that the
            user can mend.
    """
    device = choose_device(config.gpu, config.local_rank)
    freeze_clock(config.output, config.overwrite)
    dtype = resolve_dtype(config.dtype, device)
    quiet_libraries()
    tokenizer = None
    if config.model is not None:
        tokenizer = policy_tokenizer(
            config.policy_path, config.end_of_conversation_token, stops=config
        )
    with on_all_ranks():
        reward = code_reward(config)
    problems = choose_problems(config, tokenizer)
    end_token = tokenizer.eos_token if tokenizer is not None else None
    settings = code_settings_of(config, problems, end_token, dtype, reward.sandbox)
    partial = PartialResults(config.output, settings)
    repeated = [p for p in problems for _ in range(config.responses_per_problem)]

    def make() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if config.ref_scores:
            found = {i: {"response": p.example["solution"]} for i, p in enumerate(problems)}
        else:
            policy = Policy(
                config.policy_path,
                "model",
                tokenizer,
                config.temperature,
                config.max_new_tokens,
                config.seed,
                dtype,
                device,
                config.sampled_tokens,
            )
            found = run_stage(
                partial,
                "responses",
                [len(p.ids) for p in repeated],
                config.batch_size,
                lambda: responding(policy, repeated),
            )
        rows = _run_programs(config, repeated, found, reward, partial)
        name = config.output.stem
        return rows, figures_by_difficulty(name, rows, config.responses_per_problem)

    summary = partial.completed(config.overwrite, make)
    log_main(figures_table(summary["figures"]))
    return summary


def _run_programs(
    config: CodeInferenceConfig,
    repeated: Sequence[PromptExample],
    found: Rows,
    reward: CodeExecutionReward,
    partial: PartialResults,
) -> list[dict[str, Any]]:
    """The output's rows: all responses to a problem, then those to the next."""
    texts = [found[i]["response"] for i in range(len(repeated))]
    examples = [p.example for p in repeated]
    judged = run_stage(
        partial,
        "programs",
        [0] * len(repeated),  # in the data's order
        PROGRAMS_PER_WORKER * config.reward_workers,
        lambda: running(reward, texts, examples),
    )
    rows = []
    for i, problem in enumerate(repeated):
        example, response, verdict = problem.example, found[i], judged[i]
        row = {
            "prompt": problem.text,
            "response": texts[i],
            "reward": verdict["reward"],
            "verdicts": verdict["verdicts"],
            "message": verdict["message"],
            "problem": example["row"],
            "problem_id": example.get("problem_id"),
            "difficulty": example.get("difficulty"),
        }
        if "response_ids" in response:
            row |= {"tokens": len(response["response_ids"]), "ended": response["ended"]}
        rows.append(row)
    return rows


@contextmanager
def running(
    reward: CodeExecutionReward, responses: Sequence[str], examples: Sequence[Mapping[str, Any]]
) -> Iterator[Batch]:
    """Rows with `reward`, `verdicts` (one for each test) and `message`.

    `message` is what the first test that ended in an error said, in the program's own words.
    Tests behind it are "not_run": the reward is decided.
    """

    def batch(indices: list[int]) -> list[dict[str, Any]]:
        chosen = [dict(examples[i]) for i in indices]
        results = reward.run([responses[i] for i in indices], chosen)
        return [
            {
                "index": i,
                "reward": result.reward,
                "verdicts": [test.verdict for test in result.tests],
                "message": _first_error(result),
            }
            for i, result in zip(indices, results, strict=True)
        ]

    yield batch


def _first_error(result: ProgramResult) -> str:
    errors = (t for t in result.tests if t.verdict not in ("passed", "wrong"))
    return next((test.message for test in errors), "")


def reported_ks(responses: int) -> list[int]:
    """The k of pass@k that are reported: all up to 5, then 10, 20, 50, 100 ..., and the last."""
    ks = set(range(1, min(responses, FEW) + 1)) | {responses}
    ks |= {d * 10**e for e in range(1, len(str(responses))) for d in (1, 2, 5)}
    return sorted(k for k in ks if k <= responses)


def code_figures(rows: Sequence[Mapping[str, Any]], responses: int) -> dict[str, Any]:
    """Figures of the rows of one or more problems, each with as many of them.

    Args:
        rows: of the output; those of a problem follow each other.
        responses: per problem.

    Returns:
        Means over problems of pass@k (Chen et al. 2021, arXiv 2107.03374) and reward, with the
        standard error of the mean over problems (None for one problem) behind pass@1 and the
        reward. `compile_error`, `failed` (a run-time error or time-out) and `ran` are the shares of
        programs that ended so: every program ended in one of these ways.
    """
    problems = [rows[i : i + responses] for i in range(0, len(rows), responses)]
    correct = [sum(_solves(row) for row in problem) for problem in problems]
    figures: dict[str, Any] = {"problems": len(problems), "responses": len(rows)}
    for k in reported_ks(responses):
        values = [pass_at_k(responses, c, k) for c in correct]
        figures[f"pass@{k}"] = statistics.fmean(values)
        if k == 1:
            figures["pass@1_error"] = _standard_error(values)
    rewards = [statistics.fmean(row["reward"] for row in problem) for problem in problems]
    figures |= {"reward": statistics.fmean(rewards), "standard_error": _standard_error(rewards)}
    for name, share in (
        ("compile_error", {"compile_error"}),
        ("failed", {"runtime_error", "timeout"}),
    ):
        figures[name] = statistics.fmean(not share.isdisjoint(row["verdicts"]) for row in rows)
    figures["ran"] = statistics.fmean({"passed", "wrong"}.issuperset(r["verdicts"]) for r in rows)
    if "tokens" in rows[0]:
        figures["length"] = statistics.fmean(row["tokens"] for row in rows)
        figures["ended"] = statistics.fmean(row["ended"] for row in rows)
    return figures


def figures_by_difficulty(
    name: str, rows: Sequence[Mapping[str, Any]], responses: int
) -> dict[str, dict[str, Any]]:
    """Figures of all rows under `name`, and of each difficulty where there are several."""
    found = {name: code_figures(rows, responses)}
    kinds = {row["difficulty"] for row in rows}
    if len(kinds) > 1:
        known = [kind for kind in DIFFICULTIES if kind in kinds]
        for kind in [*known, *sorted(kinds.difference(known), key=str)]:
            part = [row for row in rows if row["difficulty"] == kind]
            found[str(kind or "no difficulty given")] = code_figures(part, responses)
    return found


def _solves(row: Mapping[str, Any]) -> bool:
    return all(verdict == "passed" for verdict in row["verdicts"])


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
