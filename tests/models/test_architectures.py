"""Every architecture: dropout is what the flag says, ratios start at 1, padding changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BEGIN, END, PAD, REFUSED, SUPPORTED, VOCABULARY, tiny_architecture
from dschat.errors import UserError
from dschat.models.dropout import largest_dropout
from dschat.models.loading import load_causal_lm
from dschat.models.policy import PolicyModel, check_output_layer

TEMPERATURE = 0.7
WITHOUT_DROPOUT = {"falcon_mamba", "mamba", "mamba2", "lfm2"}


class Tokenizer:
    """As much of one as loading asks for."""

    pad_token_id, eos_token_id, bos_token_id = PAD, END, BEGIN

    def __len__(self) -> int:
        return VOCABULARY


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rows of 7 + 5 tokens: padded before, cut behind, and whole."""
    ids = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids)
    attention[0, :4] = 0
    response = torch.ones(3, 5, dtype=torch.bool)
    response[1, 3:] = False
    attention[1, -2:] = 0
    return ids, attention, response


def one_by_one(model: Any) -> torch.Tensor:
    """The response tokens' log-probabilities from plain passes over rows without padding."""
    found = []
    for ids, attention, response in zip(*batch(), strict=True):
        row = ids[attention.bool()].unsqueeze(0)
        logits = model(input_ids=row, use_cache=False).logits[0].float() / TEMPERATURE
        logprobs = logits.log_softmax(-1)[:-1].gather(1, row[0, 1:, None]).squeeze(1)
        found.append(logprobs[-int(response.sum()) :])
    return torch.cat(found)


@pytest.mark.parametrize("kind", SUPPORTED)
@torch.no_grad()
def test_dropout_ratios_and_padding(kind: str, tmp_path: Path) -> None:
    tiny_architecture(kind, noise=0.3).save_pretrained(tmp_path)

    def load(dropout: float | None) -> Any:
        return load_causal_lm(str(tmp_path), Tokenizer(), torch.float32, dropout=dropout)

    model = load(0.0)
    check_output_layer(model)
    policy = PolicyModel(model, TEMPERATURE)
    scored = policy.eval()(*batch())
    torch.testing.assert_close(scored, one_by_one(model), rtol=1e-3, atol=2e-4)
    again = [policy.train()(*batch()) for _ in range(2)]
    torch.testing.assert_close(again[0], scored, rtol=0, atol=1e-6)
    assert torch.equal(again[0], again[1])
    assert largest_dropout(model) == 0.0
    for module in model.modules():
        for name, value in vars(module).items():
            random = "drop" in name or "jitter" in name
            assert not (random and isinstance(value, float) and value), name
    if kind in WITHOUT_DROPOUT:
        return
    # Another value goes to every probability, and layers and routers keep their own.
    model = load(0.1)
    probabilities = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    for module in model.modules():
        numbers = {n: v for n, v in vars(module).items() if isinstance(v, float)}
        probabilities |= {v for n, v in numbers.items() if "dropout" in n or "pdrop" in n}
        assert all(v == 0.3 for n, v in numbers.items() if "layerdrop" in n or "jitter" in n)
    assert probabilities == {0.1}
    noisy = PolicyModel(model, TEMPERATURE).train()
    assert not torch.equal(noisy(*batch()), noisy(*batch()))


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_is_not_a_causal_model_or_cannot_be_padded_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=REFUSED[kind]):
        check_output_layer(tiny_architecture(kind))
