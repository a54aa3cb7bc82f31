"""A reward model from SmolLM2, whose padding token is its end token, is read alike everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dschat.checkpoint.model_folder import gathered_state_dict, write_model
from dschat.data.text import encode_pair
from dschat.models.loading import load_reward_model, load_tokenizer
from dschat.rewards.reward_model import RewardModel
from dschat.rewards.text_reward import TextReward
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TALKS = ["Name a colour.", "Why is the sky blue? Please say it in one short sentence."]
ANSWERS = ["Red.", "Sunlight is scattered by the air, and blue light most of all."]


@pytest.mark.slow
def test_the_same_scores_everywhere(smollm2: Path, tmp_path: Path) -> None:
    policy = load_tokenizer(str(smollm2))
    assert policy.pad_token == policy.eos_token == "<|im_end|>"
    torch.manual_seed(0)
    fp32, cpu = torch.float32, torch.device("cpu")
    new = load_reward_model(str(smollm2), policy, fp32, head_may_be_new=True)
    write_model(new, gathered_state_dict(new), policy, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"]) == (0, 2)

    talks = [[{"role": "user", "content": text}] for text in TALKS]
    texts = [
        encode_pair(policy, talk, answer, policy.eos_token, 999)["input_ids"]
        for talk, answer in zip(talks, ANSWERS, strict=True)
    ]
    scorer = TextReward(str(tmp_path), "rm_name", fp32, cpu, batch_size=2)
    assert [scorer.encode(t, a) for t, a in zip(talks, ANSWERS, strict=True)] == texts
    by_text = scorer(list(talks), ANSWERS)
    model = load_reward_model(str(tmp_path), policy, fp32)
    in_step_3 = RewardModel(model, policy.pad_token_id, 2, cpu).scores(texts)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer.pad({"input_ids": texts}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        by_transformers = plain(**batch).logits[:, 0].tolist()
        ids = torch.tensor([texts[0]])
        before, end = plain.score(plain.model(ids).last_hidden_state)[0, -2:, 0].tolist()
    assert by_text == pytest.approx(in_step_3, abs=1e-5)
    assert by_text == pytest.approx(by_transformers, abs=1e-4)
    assert by_text[0] == pytest.approx(end, abs=1e-4)
    assert abs(end - before) > 1e-2
