"""Programs of a policy with their rewards by tests, from the settings to the file and the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dschat.data.prompts import PromptExample
from dschat.evaluation.respond.code_figures import figures_by_difficulty
from dschat.evaluation.respond.partial import PartialResults, Rows, freeze_clock
from dschat.evaluation.respond.policy import Policy, responding
from dschat.evaluation.respond.problems import choose_problems
from dschat.evaluation.respond.programs import running
from dschat.evaluation.respond.settings import code_settings_of
from dschat.evaluation.respond.setup import choose_device, policy_tokenizer, quiet_libraries
from dschat.evaluation.respond.stages import run_stage
from dschat.evaluation.respond.table import figures_table
from dschat.models.loading import resolve_dtype
from dschat.rewards.code_execution import CodeExecutionReward, code_reward
from dschat.runtime.distributed import log_main, on_all_ranks, shut_down
from dschat.settings.inference import CodeInferenceConfig

PROGRAMS_PER_WORKER = 8
"""In a batch, which ends with its slowest program, and whose results are written at once."""


def run_code_inference(config: CodeInferenceConfig) -> None:
    """What the script calls: `infer_programs`, and leave the process group."""
    infer_programs(config)
    shut_down()


def infer_programs(config: CodeInferenceConfig) -> dict[str, Any]:
    """Write the output file, or go on with it where an earlier run stopped; print the table.

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
        tokenizer = policy_tokenizer(config.policy_path, config.end_of_conversation_token)
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
