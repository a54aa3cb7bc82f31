"""Several models respond to the same prompts with the same random numbers, and are scored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer

from dschat.data.load import load_data
from dschat.data.prompts import PromptExample
from dschat.data.rows import decode_example
from dschat.data.schemas.gsm8k import with_worked_examples
from dschat.data.text import conversation_text
from dschat.errors import UserError
from dschat.evaluation.comparison.pairing import Aligned, Rows
from dschat.evaluation.respond.partial import json_line
from dschat.evaluation.respond.policy import Policy, diverging, responding
from dschat.evaluation.respond.prompts import short_enough
from dschat.evaluation.respond.run import texts_of_responses
from dschat.evaluation.respond.stages import (
    choose_device,
    in_batches,
    policy_tokenizer,
)
from dschat.models.loading import check_same_vocabulary, load_pretrained, resolve_dtype
from dschat.models.output_layer import tokens_of
from dschat.rewards.base import RewardFunction, score_responses
from dschat.rewards.build import Rewards
from dschat.rewards.math_answers import answered_correctly
from dschat.rewards.maths.extraction import find_answer
from dschat.rewards.text_reward import TextReward
from dschat.runtime.distributed import quiet_libraries, world_size
from dschat.runtime.files import atomic_write_text
from dschat.settings.command_line import require
from dschat.settings.comparison import CompareConfig
from dschat.settings.rewards import CHECKED_ANSWERS, FORMS, names_reward
from dschat.settings.rollout.stops import StopFlags

Prompts = list[PromptExample]


@dataclass(frozen=True)
class Answers:
    """One model's responses by index of the prompts that they answer: rows of `responding`."""

    name: str
    prompts: Prompts
    rows: list[dict[str, Any]]


def respond(config: CompareConfig) -> tuple[Aligned, Aligned | None]:
    """Sampled and greedy responses of all models, also written to NAME.jsonl in `output`.

    Returns:
        Aligned rows of the sampled responses, all of a prompt behind each other, and of the greedy
        ones (None without `greedy`); models before reference models.

    Raises:
        UserError: a model, the data or a reward cannot be used.
    """
    device = choose_device(None)
    require(
        world_size() == 1,
        f"compare.py lets models respond in one process, and there are {world_size()}. Start it "
        "with python; inference_with_rewards.py responds on several GPUs, and compare.py takes its "
        "files.",
    )
    dtype = resolve_dtype(config.dtype, device)
    quiet_libraries()
    references = _folders(config.reference_models)
    folders = {**_folders(config.models), **references}
    tokenizer, width = _shared_vocabulary(folders, config)
    prompts = _prompts(config, tokenizer)
    _check_kinds(config, prompts)
    rewards = [Rewards(config.replace(reward=[entry])).combined() for entry in config.reward or ()]
    model_reward = None
    if config.reward_model is not None:
        size = config.batch_size
        model_reward = TextReward(config.reward_model, "reward_model", dtype, device, size)
    repeated = [p for p in prompts for _ in range(max(config.pass_k, default=1))]
    sampled, greedy = [], []
    for name, folder in tqdm(folders.items(), desc="responding", unit="model"):
        policy = Policy(
            folder,
            "reference_models" if name in references else "models",
            tokenizer,
            config.temperature,
            config.max_new_tokens,
            config.seed,
            dtype,
            device,
            width=width,
        )
        rows = in_batches(
            [len(p.ids) for p in repeated], config.batch_size, responding(policy, repeated), name
        )
        for other, reference in references.items():
            _measure(config, policy, other, reference, prompts, rows, len(repeated) // len(prompts))
        sampled.append(Answers(name, repeated, rows))
        if config.greedy:
            at_once = responding(replace(policy, temperature=0.0), prompts)
            lengths = [len(p.ids) for p in prompts]
            rows = in_batches(lengths, config.batch_size, at_once, name)
            greedy.append(Answers(name, prompts, rows))
    everything = [*sampled, *greedy]
    columns = _columns(config, tokenizer, everything, rewards, model_reward)
    of = dict(zip(map(id, everything), columns, strict=True))
    kinds = _folders(config.kinds)
    found = []
    for group, ending in ((sampled, ".jsonl"), (greedy, ".greedy.jsonl")):
        models = [_rows(answers, of[id(answers)], kinds) for answers in group]
        for answers, rows in zip(group, models, strict=True):
            path = Path(config.output) / f"{answers.name}{ending}"
            atomic_write_text(path, "".join(map(json_line, rows)))
        lines = list(range(1, len(models[0]) + 1)) if models else []
        found.append(Aligned([a.name for a in group], models, lines, [0] * len(group)))
    return found[0], found[1] if greedy else None


def _folders(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE by name."""
    return dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]


def _shared_vocabulary(folders: dict[str, str], stops: StopFlags) -> tuple[Any, int]:
    """The tokenizer of all models, and for how many tokens every one of them has a logit."""
    first, *others = folders.values()
    tokenizer = policy_tokenizer(first, None, "models", stops)
    for folder in others:
        other = load_pretrained(AutoTokenizer, folder, "models")
        check_same_vocabulary(tokenizer, other, first, folder)
    configs = [load_pretrained(AutoConfig, folder, "models") for folder in (first, *others)]
    rows = (found.get_text_config().vocab_size for found in configs)
    return tokenizer, min(tokens_of(tokenizer), *rows)


def _prompts(config: CompareConfig, tokenizer: Any) -> Prompts:
    """The first held-out prompts that are short enough."""
    data = load_data(config.dataset, "rl", "0,0,1", config.seed, f"{config.output}/.cache")
    if len(data.eval) == 0:
        raise UserError(f"--dataset {' '.join(config.dataset)}: there are no held-out prompts.")
    rows = list(data.eval)
    if config.few_shot:
        rows = with_worked_examples(data.train, rows, config.few_shot)[1]
    short = short_enough(config.max_prompt_tokens, [row["prompt"] for row in rows], tokenizer)
    return [
        PromptExample(
            ids,
            conversation_text(rows[i]["prompt"], tokenizer),
            decode_example(rows[i].get("example")),
            conversation=rows[i]["prompt"],
        )
        for i, ids in short[: config.num_samples]
    ]


def _check_kinds(config: CompareConfig, prompts: Prompts) -> None:
    for name, text in _folders(config.kinds).items():
        if not any(text in str(p.example.get("answer")) for p in prompts):
            raise UserError(
                f"--kinds {name}={text}: the written answer of no test problem contains {text!r}."
            )


def _measure(
    config: CompareConfig,
    policy: Policy,
    name: str,
    reference: str,
    prompts: Prompts,
    rows: list[dict[str, Any]],
    samples: int,
) -> None:
    """Add the divergences from a reference to the first response to each prompt."""
    firsts = dict(enumerate(rows[::samples]))
    lengths = [len(p.ids) + len(firsts[i]["response_ids"]) for i, p in enumerate(prompts)]
    measuring = diverging(policy, reference, prompts, firsts, config.divergences, config.epsilon)
    measured = in_batches(lengths, config.batch_size, measuring, "divergences")
    for row, found in zip(firsts.values(), measured, strict=True):
        named = {f"{kind} to {name}": found[kind] for kind in config.divergences}
        row["divergences"] = {**row.get("divergences", {}), **named}


def _columns(
    config: CompareConfig,
    tokenizer: Any,
    everything: Sequence[Answers],
    rewards: Sequence[RewardFunction],
    model_reward: TextReward | None,
) -> list[dict[str, list[Any]]]:
    """By name, a score of every response of each of `everything`; the first is the reward.

    A score that is 0 or 1 for all of them is given as true or false.
    """
    prompts = [p for answers in everything for p in answers.prompts]
    rows = [row for answers in everything for row in answers.rows]
    texts = [row["response"] for row in rows]
    scores: dict[str, list[Any]] = {}
    if model_reward is not None:
        encoded = texts_of_responses(model_reward, tokenizer, prompts, dict(enumerate(rows)))
        # A response that two models give is scored once: another batch may round another way.
        unique = list(dict.fromkeys(map(tuple, encoded)))
        with model_reward.loaded() as score:
            score_of = dict(zip(unique, score([list(ids) for ids in unique]), strict=True))
        scores["reward"] = [score_of[tuple(ids)] for ids in encoded]
    examples = [
        {
            **p.example,
            "prompt_ids": p.ids,
            "response_ids": row["response_ids"],
            "conversation": p.conversation,
        }
        for p, row in zip(prompts, rows, strict=True)
    ]
    for reward in rewards:
        found, parts = score_responses(reward, [p.text for p in prompts], texts, examples)
        scores[reward.name if scores else "reward"] = found
        scores |= {name: list(part) for name, part in parts.items()}
    if not scores or names_reward(config.reward, CHECKED_ANSWERS):
        forms = getattr(config, "answer_extraction", FORMS)  # a flag of that reward
        scores["accuracy"] = [
            answered_correctly(text, p.example, forms)
            for text, p in zip(texts, prompts, strict=True)
        ]
        for row in rows:
            row["form"] = find_answer(row["response"], forms)[1]
    for name, values in list(scores.items())[1:]:
        if set(values) <= {0.0, 1.0}:
            scores[name] = [bool(value) for value in values]
    ends = [0]
    for answers in everything:
        ends.append(ends[-1] + len(answers.rows))
    return [
        {name: values[a:b] for name, values in scores.items()} for a, b in itertools.pairwise(ends)
    ]


def _rows(answers: Answers, columns: dict[str, list[Any]], kinds: dict[str, str]) -> Rows:
    """The lines of a model's file."""
    (first, rewards), *scores = columns.items()
    if first != "reward":
        scores = [(first, rewards)]
    found = []
    for i, (prompt, row) in enumerate(zip(answers.prompts, answers.rows, strict=True)):
        line = {
            "prompt": prompt.text,
            "response": row["response"],
            "reward": float(rewards[i]),
            "tokens": len(row["response_ids"]),
            "ended": row["ended"],
        }
        if scores:
            line["scores"] = {name: values[i] for name, values in scores}
        if kinds:
            answer = str(prompt.example.get("answer"))
            line["kinds"] = [name for name, text in kinds.items() if text in answer]
        found.append(line | {key: row[key] for key in ("divergences", "form") if key in row})
    return found
