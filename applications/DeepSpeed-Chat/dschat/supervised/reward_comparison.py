"""A trained policy beside its references: rewards of their responses, and how often it wins."""

from __future__ import annotations

import gc
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dschat.data.prompts import PromptExample
from dschat.data.text import conversation_text, prompt_ids
from dschat.models.loading import check_context, load_causal_lm
from dschat.models.output_layer import cut_vocabulary
from dschat.rewards import check_rewards
from dschat.rewards.text_reward import TextReward
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import Sampler
from dschat.runtime.distributed import gather_shares, is_main, log_main, rank, world_size
from dschat.runtime.files import atomic_write_text
from dschat.runtime.statistics import win_rate
from dschat.settings.command_line import require

NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; the same random numbers for every model."""

    num_samples: int
    max_prompt_length: int
    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Model:
    """A model that is compared: what it is called, where it lies, which flag named it."""

    name: str
    path: str
    flag: str


def choose_prompts(rows: Any, tokenizer: Any, sampling: Sampling) -> list[PromptExample]:
    """Held-out prompts, drawn with the seed; the reward model's view of each is in `example`.

    Raises:
        UserError: fewer than 2 of them are short enough.
    """
    order = np.random.default_rng(sampling.seed).permutation(len(rows)).tolist()
    prompts = [rows[i]["prompt"] for i in order]
    encoded = prompt_ids(tokenizer, prompts)
    chosen = [
        PromptExample(ids, conversation_text(prompt, tokenizer), {"prompt": prompt})
        for prompt, ids in zip(prompts, encoded, strict=True)
        if len(ids) <= sampling.max_prompt_length
    ][: sampling.num_samples]
    require(
        len(chosen) >= 2,
        f"--rm_name needs at least 2 held-out prompts of at most {sampling.max_prompt_length} "
        f"tokens to compare on; there are {len(chosen)} among {len(rows)}. Give more data, a "
        "longer --max_prompt_length, or leave --rm_name out.",
    )
    return chosen


class RewardComparison:
    """Checks at once what the comparison needs, and makes it when training has ended.

    Args:
        rows: held-out rows with a `prompt`. tokenizer: the policy's, which all models share.
        width: tokens that all models have a logit for. rewards: the reward model.

    Raises:
        UserError: too few prompts, or the reward model cannot read them.
    """

    def __init__(
        self, rows: Any, tokenizer: Any, width: int, sampling: Sampling, rewards: TextReward
    ) -> None:
        self.tokenizer, self.width, self.sampling = tokenizer, width, sampling
        self.rewards = rewards
        self.prompts = choose_prompts(rows, tokenizer, sampling)
        rewards.encode(self.prompts[0].example["prompt"], "Yes.")

    def check_context(self, model_config: Any) -> None:
        """Refuse a --max_new_tokens that the model has no positions for; raises `UserError`."""
        longest = max(len(p.ids) for p in self.prompts)
        new = self.sampling.max_new_tokens
        what = f"prompts of {longest} + --max_new_tokens {new}"
        check_context(model_config, longest + new, what)

    def run(self, policy: Model, references: Sequence[Model], output: Path) -> dict[str, Any]:
        """Sample, score, print, and write `output` (JSON). All ranks must call.

        Returns:
            What is in the file, on every rank.
        """
        models = [policy, *references]
        responses = {m.name: self._sample(m) for m in models}
        mine = self.prompts[rank() :: world_size()]
        pairs = [(i, text) for m in models for i, text in enumerate(responses[m.name])]
        # A response that two models give is scored once: another batch may round another way.
        unique = list(dict.fromkeys(pairs))
        prompts = [mine[i].example["prompt"] for i, _ in unique]
        found = self.rewards(prompts, [text for _, text in unique]) if unique else []
        found = check_rewards(found, [mine[i].text for i, _ in unique], self.rewards.path)
        score_of = dict(zip(unique, found, strict=True))
        scores = [score_of[pair] for pair in pairs]
        rewards = {
            m.name: gather_shares(scores[i * len(mine) : (i + 1) * len(mine)])
            for i, m in enumerate(models)
        }
        whole = {name: gather_shares(texts) for name, texts in responses.items()}
        result = self._result(policy, references, whole, rewards)
        if is_main():
            atomic_write_text(output, json.dumps(result, indent=1, ensure_ascii=False))
        log_main(format_comparison(result) + f"\nWritten to {output}")
        return result

    def _sample(self, compared: Model) -> list[str]:
        """This rank's responses of one model, which is loaded for it."""
        s, tokenizer = self.sampling, self.tokenizer
        model = load_causal_lm(compared.path, tokenizer, s.dtype, compared.flag)
        model = cut_vocabulary(model, self.width).to(s.device).eval()
        settings = GenerationSettings.of(tokenizer, s.max_new_tokens, s.temperature)
        sampler = Sampler(tokenizer, settings, s.seed, s.batch_size, s.device)
        mine = slice(rank(), None, world_size())
        numbers = sampler.numbers(len(self.prompts))[mine]
        progress = f"sampling {compared.name}"
        responses = sampler.sample(model, self.prompts[mine], numbers, progress=progress)
        texts = sampler.decode(responses)
        del model
        gc.collect()
        if s.device.type == "cuda":
            torch.cuda.empty_cache()
        return texts

    def _result(
        self,
        policy: Model,
        references: Sequence[Model],
        responses: dict[str, list[str]],
        rewards: dict[str, list[float]],
    ) -> dict[str, Any]:
        return {
            "reward_model": self.rewards.path,
            "prompts": len(self.prompts),
            "temperature": self.sampling.temperature,
            "max_new_tokens": self.sampling.max_new_tokens,
            "seed": self.sampling.seed,
            "rewards": {
                m.name: {"path": m.path, **mean_reward(rewards[m.name])}
                for m in (policy, *references)
            },
            "win_rates": {
                m.name: {"path": m.path, **win_rate(rewards[policy.name], rewards[m.name])}
                for m in references
            },
            "samples": [
                {
                    "prompt": prompt.text,
                    **{n: {"response": responses[n][i], "reward": rewards[n][i]} for n in rewards},
                }
                for i, prompt in enumerate(self.prompts)
            ],
        }


def mean_reward(rewards: Sequence[float]) -> dict[str, Any]:
    """Mean of 2 or more rewards with its 95 % interval (normal approximation)."""
    mean = statistics.fmean(rewards)
    spread = NORMAL_95 * statistics.stdev(rewards) / math.sqrt(len(rewards))
    return {"mean": mean, "interval": [mean - spread, mean + spread]}


def format_comparison(result: dict[str, Any]) -> str:
    """The comparison as a table."""
    lines = [f"\nRewards by {result['reward_model']} on {result['prompts']} held-out prompts"]
    for name, reward in result["rewards"].items():
        low, high = reward["interval"]
        line = f"  {name:8} {reward['mean']:9.4f}  [{low:.4f}, {high:.4f}]"
        if name in result["win_rates"]:
            rate = result["win_rates"][name]
            low, high = rate["interval"]
            line += f"   policy wins {rate['win_rate']:.1%}  [{low:.1%}, {high:.1%}]"
        lines.append(f"{line}   {reward['path']}")
    return "\n".join(lines)
