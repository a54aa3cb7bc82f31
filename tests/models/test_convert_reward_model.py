"""DeepSpeed-Chat's reward checkpoints give the same scores after their conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.convert_reward_model import convert, main
from dschat.models.loading import load_reward_model
from tiny import tiny_config
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    LlamaModel,
    OPTConfig,
    OPTModel,
)


class OldRewardModel(nn.Module):
    """The published model, written down again: a body, and a head without bias on its states."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.rwtransformer = body
        self.v_head = nn.Linear(width, 1, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[L] -> the score of the last token."""
        return self.v_head(self.rwtransformer(ids[None]).last_hidden_state)[0, -1, 0]


def bodies(tokenizer: Any) -> dict[str, tuple[nn.Module, int]]:
    size = len(tokenizer)
    gpt2 = GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2, initializer_range=0.3)
    opt = OPTConfig(
        vocab_size=size,
        hidden_size=32,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
        init_std=0.3,
    )
    llama = tiny_config(tokenizer, initializer_range=0.3)
    return {
        "llama": (LlamaModel(llama), 32),
        "gpt2": (GPT2Model(gpt2), 32),
        "opt": (OPTModel(opt), 16),
    }


def save_old(
    folder: Path, tokenizer: Any, kind: str = "llama", prefix: str = "rwtransformer"
) -> OldRewardModel:
    torch.manual_seed(3)
    body, width = bodies(tokenizer)[kind]
    body.resize_token_embeddings(208)  # a multiple of 8, which config.json does not tell
    model = OldRewardModel(body, width).eval()
    body.config.vocab_size = len(tokenizer)
    body.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {k.replace("rwtransformer", prefix): v for k, v in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    return model


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("llama", "rwtransformer"),
        ("llama", "rwtranrsformer"),  # as DeepSpeed-Chat spelt it for long
        ("llama", "module.rwtransrformer"),
        ("gpt2", "rwtranrsformer"),
        ("opt", "rwtranrsformer"),
    ],
)
@torch.no_grad()
def test_scores_stay_the_same(tiny_tokenizer: Any, tmp_path: Path, kind: str, prefix: str) -> None:
    old = save_old(tmp_path / "old", tiny_tokenizer, kind, prefix)
    main([str(tmp_path / "old"), str(tmp_path / "new")])
    new = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new").eval()
    assert new.config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    scores = []
    for text in ("Human: egg? Assistant: yes<eos>", "The quick brown fox<eos>"):
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        scores.append(float(new(ids[None]).logits))
        assert scores[-1] == pytest.approx(float(old(ids)), abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-3
    loaded = load_reward_model(str(tmp_path / "new"), tokenizer, torch.float32)
    assert torch.equal(loaded.score.weight, old.v_head.weight)


def test_an_old_folder_is_answered_with_the_command(tiny_tokenizer: Any, tmp_path: Path) -> None:
    from dschat.rewards.text_reward import TextReward

    save_old(tmp_path / "old", tiny_tokenizer)
    path, command = str(tmp_path / "old"), "dschat.models.convert_reward_model"
    for head_may_be_new in (False, True):
        with pytest.raises(UserError, match=command) as caught:
            load_reward_model(
                path, tiny_tokenizer, torch.float32, "critic", head_may_be_new=head_may_be_new
            )
    with pytest.raises(UserError, match=command):
        TextReward(path, "reward-model", torch.float32, torch.device("cpu"), 2)
    (line,) = (line for line in str(caught.value).splitlines() if command in line)
    words = line.split()
    assert words[:3] == ["python", "-m", command]
    main(words[3:])
    load_reward_model(words[-1], tiny_tokenizer, torch.float32)


def test_what_cannot_be_converted(
    tiny_tokenizer: Any, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with pytest.raises(UserError, match="has no pytorch_model.bin"):
        convert(tiny_reward_dir, new)
    with pytest.raises(UserError, match="has no pytorch_model.bin"):
        convert(tmp_path / "nowhere", new)
    save_old(old, tiny_tokenizer)
    with pytest.raises(UserError, match="is there already"):
        convert(old, old)
    weights = torch.load(old / "pytorch_model.bin", weights_only=True)
    norm = "rwtransformer.norm.weight"
    torch.save({k: v for k, v in weights.items() if k != norm}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks 1 of .*\(norm.weight\)"):
        convert(old, new)
    extra = {**weights, "rwtransformer.extra": torch.zeros(1)}
    torch.save(extra, old / "pytorch_model.bin")
    with pytest.raises(UserError, match="which has no extra"):
        convert(old, new)
    torch.save({**weights, "v_head.weight": torch.zeros(1, 7)}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"v_head.weight is \[1, 7\]"):
        convert(old, new)
    torch.save({norm: weights[norm]}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no v_head.weight"):
        convert(old, new)
    torch.save({"v_head.weight": Path("anything")}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read as a file of weights"):
        convert(old, new)
    assert not new.exists()
