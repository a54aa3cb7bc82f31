"""Responses of a policy with their rewards, from the settings to the file and the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import AutoTokenizer

from dschat.data.prompts import PromptExample
from dschat.evaluation.respond.partial import PartialResults, Rows, freeze_clock
from dschat.evaluation.respond.policy import DIVERGENCES, Policy, diverging, responding
from dschat.evaluation.respond.prompts import choose_prompts
from dschat.evaluation.respond.settings import settings_of
from dschat.evaluation.respond.stages import Batch, choose_device, policy_tokenizer, run_stage
from dschat.evaluation.tables import figures_table, response_figures
from dschat.models.loading import check_same_vocabulary, load_pretrained, resolve_dtype
from dschat.rewards import check_rewards
from dschat.rewards.text_reward import TextReward
from dschat.runtime.distributed import log_main, quiet_libraries, shut_down
from dschat.settings.inference import InferenceConfig


def run_inference(config: InferenceConfig) -> None:
    """What the script calls: `infer`, and leave the process group."""
    infer(config)
    shut_down()


def infer(config: InferenceConfig) -> dict[str, Any]:
    """Write the output file, or resume it where an earlier run stopped; print the table.

    Returns:
        The summary, which is also written beside the output: `figures` and `settings`.

    Raises:
        UserError: anything in the settings, the data, a model or the disk that the user can mend.
    """
    device = choose_device(config.gpu, config.local_rank)
    freeze_clock(config.output, config.overwrite)
    dtype = resolve_dtype(config.dtype, device)
    quiet_libraries()
    rewards = TextReward(str(config.reward_model), "reward-model", dtype, device, config.batch_size)
    if config.model is None:
        tokenizer = rewards.tokenizer
    else:
        tokenizer = policy_tokenizer(
            config.policy_path, config.end_of_conversation_token, stops=config
        )
    if config.reference_model is not None:
        other = load_pretrained(AutoTokenizer, config.reference_model, "reference-model")
        check_same_vocabulary(tokenizer, other, config.policy_path, config.reference_model)
    prompts = choose_prompts(config, tokenizer)
    settings = settings_of(config, prompts, tokenizer.eos_token, dtype)
    partial = PartialResults(config.output, settings)

    def make() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if config.ref_scores:
            return _score_data(config, prompts, rewards, partial)
        policy = Policy(
            config.policy_path,
            "model",
            tokenizer,
            config.temperature,
            config.max_new_tokens,
            config.seed,
            dtype,
            device,
        )
        return _answer(config, prompts, policy, rewards, partial)

    summary = partial.completed(config.overwrite, make)
    log_main(figures_table(summary["figures"]))
    return summary


def _answer(
    config: InferenceConfig,
    prompts: Sequence[PromptExample],
    policy: Policy,
    rewards: TextReward,
    partial: PartialResults,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Output rows and figures of the policy's responses."""
    size = config.batch_size
    lengths = [len(p.ids) for p in prompts]
    found = run_stage(partial, "responses", lengths, size, lambda: responding(policy, prompts))
    divergences: dict[str, list[float]] = {}
    if config.reference_model is not None:
        reference = config.reference_model
        whole = [n + len(found[i]["response_ids"]) for i, n in enumerate(lengths)]
        measured = run_stage(
            partial,
            "divergences",
            whole,
            size,
            lambda: diverging(policy, reference, prompts, found),
        )
        divergences = {
            name: [measured[i][name] for i in range(len(prompts))] for name in DIVERGENCES
        }
    texts = texts_of_responses(rewards, policy.tokenizer, prompts, found)
    scored = run_stage(
        partial,
        "rewards",
        [len(ids) for ids in texts],
        size,
        lambda: scoring(rewards, [[ids] for ids in texts]),
    )
    rows = [
        {"prompt": p.text, "response": found[i]["response"], "reward": scored[i]["scores"][0]}
        for i, p in enumerate(prompts)
    ]
    figures = response_figures(
        [row["reward"] for row in rows],
        [row["response"] for row in rows],
        [len(found[i]["response_ids"]) for i in range(len(rows))],
        [found[i]["ended"] for i in range(len(rows))],
        divergences,
    )
    return rows, {config.output.stem: figures}


def _score_data(
    config: InferenceConfig,
    prompts: Sequence[PromptExample],
    rewards: TextReward,
    partial: PartialResults,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Output rows and figures of the data set's own pairs."""
    kinds = ("chosen", "rejected")
    texts = [
        [rewards.encode(p.example["prompt"], p.example[kind]) for kind in kinds] for p in prompts
    ]
    lengths = [sum(map(len, pair)) for pair in texts]
    # A pair is two texts: a batch holds half as many of them.
    size = max(1, config.batch_size // 2)
    found = run_stage(partial, "rewards", lengths, size, lambda: scoring(rewards, texts))
    rows = [
        {
            "prompt": p.text,
            "response": p.example["chosen"],
            "reward": found[i]["scores"][0],
            "rejected_response": p.example["rejected"],
            "rejected_reward": found[i]["scores"][1],
        }
        for i, p in enumerate(prompts)
    ]
    figures = {}
    for kind, response, reward in (
        ("chosen", "response", "reward"),
        ("rejected", "rejected_response", "rejected_reward"),
    ):
        responses = [row[response] for row in rows]
        encoded = rewards.tokenizer(responses, add_special_tokens=False)["input_ids"]
        tokens = [len(ids) + 1 for ids in encoded]  # the end token counts, as in a policy's length
        figures[kind] = response_figures([row[reward] for row in rows], responses, tokens)
    higher = sum(row["reward"] > row["rejected_reward"] for row in rows) / len(rows)
    figures["chosen"]["higher reward"] = higher
    return rows, figures


def texts_of_responses(
    rewards: TextReward, tokenizer: Any, prompts: Sequence[PromptExample], responses: Rows
) -> list[list[int]]:
    """What the reward model reads for each response, as its own token ids.

    Where it has the policy's tokenizer these are the very tokens that were sampled; else the texts
    are written in its own way.
    """
    if rewards.reads_tokens(tokenizer, prompts):
        return [p.ids + responses[i]["response_ids"] for i, p in enumerate(prompts)]
    return [rewards.encode(p.conversation, responses[i]["response"]) for i, p in enumerate(prompts)]


@contextmanager
def scoring(rewards: TextReward, texts: Sequence[Sequence[list[int]]]) -> Iterator[Batch]:
    """Rows with `scores`, one for each of an item's texts (token ids)."""
    with rewards.loaded() as score:

        def batch(indices: list[int]) -> list[dict[str, Any]]:
            flat = [ids for i in indices for ids in texts[i]]
            prompts = [rewards.tokenizer.decode(ids) for ids in flat]
            scores = iter(check_rewards(score(flat), prompts, rewards.path))
            return [{"index": i, "scores": [next(scores) for _ in texts[i]]} for i in indices]

        yield batch
