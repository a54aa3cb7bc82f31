"""Rewards of a policy and its references: texts, scores, intervals, win rates."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from dschat.errors import UserError
from dschat.rewards.text_reward import TextReward
from dschat.supervised.reward_comparison import (
    Model,
    RewardComparison,
    Sampling,
    choose_prompts,
    mean_reward,
)
from preferences import rows
from scipy.stats import norm
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

CPU = torch.device("cpu")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
MESSAGES = [{"role": "user", "content": "How do I boil an egg?"}]


def save_reward_model(folder: Path, tokenizer: Any, **settings: Any) -> str:
    torch.manual_seed(4)
    config = tiny.tiny_config(tokenizer, **{"num_labels": 1, **settings})
    config.initializer_range = 0.3
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def other_tokenizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fewer merges than the tiny tokenizer, and a chat template."""
    monkeypatch.setattr(tiny, "TINY_VOCABULARY", 120)
    tokenizer = tiny.build_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def sampling(**settings: Any) -> Sampling:
    return Sampling(
        **{
            "num_samples": 4,
            "max_prompt_length": 64,
            "max_new_tokens": 6,
            "temperature": 1.0,
            "seed": 3,
            "batch_size": 3,
            "dtype": torch.float32,
            "device": CPU,
            **settings,
        }
    )


def score(folder: str, tokenizer: Any, text: str) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    hidden = model.model(ids).last_hidden_state[0, -1]
    return float((hidden @ model.score.weight[0]).detach())


def test_a_reward_model_reads_texts_in_its_own_way(other_tokenizer: Any, tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "rm", other_tokenizer)
    reward = TextReward(folder, "rm_name", torch.float32, CPU, batch_size=2)
    prompts: list[Any] = [MESSAGES, "Human: egg? Assistant:", MESSAGES]
    found = reward(prompts, ["In water.", " In water.", "No."])
    expected = [
        "user: How do I boil an egg?<eos>assistant: In water.<eos>",
        "Human: egg? Assistant: In water.<eos>",
        "user: How do I boil an egg?<eos>assistant: No.<eos>",
    ]
    assert found == pytest.approx(
        [score(folder, other_tokenizer, text) for text in expected], abs=1e-5
    )
    assert len({round(value, 4) for value in found}) == 3


def test_padding_is_not_scored_where_pad_and_end_are_one(
    other_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(other_tokenizer)
    tokenizer.pad_token = None
    folder = save_reward_model(tmp_path / "rm", tokenizer)
    reward = TextReward(folder, "rm_name", torch.float32, CPU, batch_size=2)
    assert reward.tokenizer.pad_token == "<eos>"
    short, long = "Yes.", "A longer answer, with many more words in it."
    both = reward([MESSAGES, MESSAGES], [short, long])
    alone = reward([MESSAGES], [short]) + reward([MESSAGES], [long])
    assert both == pytest.approx(alone, abs=1e-5)


def test_an_encoder_is_asked_for_its_own_score(tiny_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
        initializer_range=0.3,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    reward = TextReward(str(tmp_path), "rm_name", torch.float32, CPU, batch_size=2)
    found = reward(["Human: egg", "Human: a fox and a dog"], [" yes", " no"])
    for text, value in zip(("Human: egg yes", "Human: a fox and a dog no"), found, strict=True):
        ids = torch.tensor([tiny_tokenizer(text + "<eos>")["input_ids"]])
        assert value == pytest.approx(model(ids).logits.item(), abs=1e-5)


def test_what_is_no_reward_model_is_refused_at_once(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def open_model(path: str | Path) -> TextReward:
        return TextReward(str(path), "rm_name", torch.float32, CPU, batch_size=2)

    with pytest.raises(UserError, match="--rm_name .*LlamaForCausalLM.* is no reward model"):
        open_model(tiny_model_dir)
    three = save_reward_model(tmp_path / "three", tiny_tokenizer, num_labels=3)
    with pytest.raises(UserError, match="3 labels"):
        open_model(three)
    with pytest.raises(UserError, match="--rm_name"):
        open_model(tmp_path / "nowhere")
    one = open_model(save_reward_model(tmp_path / "one", tiny_tokenizer))
    with pytest.raises(UserError, match="no chat template"):
        one.encode(MESSAGES, "Yes.")


def test_the_comparison(
    tiny_model_dir: Path, tiny_tokenizer: Any, other_tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import LlamaForCausalLM

    torch.manual_seed(9)
    settings = tiny.tiny_config(tiny_tokenizer, vocab_size=len(tiny_tokenizer) + 16)
    LlamaForCausalLM(settings).save_pretrained(tmp_path / "other")
    folder = save_reward_model(tmp_path / "rm", other_tokenizer)
    reward = TextReward(folder, "rm_name", torch.float32, CPU, batch_size=5)
    width = len(tiny_tokenizer)
    comparison = RewardComparison(rows(6), tiny_tokenizer, width, sampling(), reward)
    policy = Model("policy", str(tiny_model_dir), "output_dir")
    references = [
        Model("ref_0", str(tiny_model_dir), "refs"),
        Model("ref_1", str(tmp_path / "other"), "refs"),
    ]
    result = comparison.run(policy, references, tmp_path / "found.json")
    assert result == json.loads((tmp_path / "found.json").read_text())
    assert result["prompts"] == len(result["samples"]) == 4
    # The same model with the same random numbers says the same.
    assert result["win_rates"]["ref_0"]["ties"] == 4
    assert result["win_rates"]["ref_0"]["win_rate"] == 0.5
    for name in ("policy", "ref_0", "ref_1"):
        samples = [row[name] for row in result["samples"]]
        prompts = [row["prompt"] for row in result["samples"]]
        expected = [
            score(folder, other_tokenizer, f"{prompt}{sample['response']}<eos>")
            for prompt, sample in zip(prompts, samples, strict=True)
        ]
        assert [s["reward"] for s in samples] == pytest.approx(expected, abs=1e-5)
        assert result["rewards"][name]["mean"] == pytest.approx(
            statistics.fmean(expected), abs=1e-5
        )
    assert result["samples"][0]["policy"] != result["samples"][0]["ref_1"]
    with pytest.raises(UserError, match="--max_new_tokens 6"):
        comparison.check_context(tiny.tiny_config(tiny_tokenizer, max_position_embeddings=20))


def test_prompts_are_drawn_with_the_seed_and_fit(tiny_tokenizer: Any) -> None:
    held_out = rows(20)
    one = choose_prompts(held_out, tiny_tokenizer, sampling(num_samples=5))
    again = choose_prompts(held_out, tiny_tokenizer, sampling(num_samples=5))
    other = choose_prompts(held_out, tiny_tokenizer, sampling(num_samples=5, seed=4))
    assert one == again != other
    assert len({p.text for p in one}) == 5
    lengths = sorted(len(p.ids) for p in choose_prompts(held_out, tiny_tokenizer, sampling()))
    with pytest.raises(UserError, match="at least 2 held-out prompts"):
        choose_prompts(held_out, tiny_tokenizer, sampling(max_prompt_length=lengths[0] - 8))


def test_intervals() -> None:
    rewards = [1.0, 2.0, 4.0, 9.0]
    found = mean_reward(rewards)
    low, high = norm.interval(0.95, loc=4.0, scale=statistics.stdev(rewards) / 2)
    assert found["mean"] == 4.0
    assert found["interval"] == pytest.approx([low, high], rel=1e-6)
