"""Chunked log-probabilities against whole logits, forward and backward, for several designs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models import output_layer
from dschat.models.policy import PolicyModel, ValueModel, backbone, check_output_layer
from dschat.models.response_logprobs import response_logprobs

TEMPERATURE = 0.7


def llama(**settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**sizes(), **settings))


def gemma2(**settings: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(
        Gemma2Config(**sizes(), head_dim=8, final_logit_softcapping=2.0, **settings)
    )


def granite(**settings: Any) -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**sizes(), logits_scaling=4.0, **settings))


def gpt2(**settings: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=2, **settings))


def phi(**settings: Any) -> Any:  # its output layer has a bias
    from transformers import PhiConfig, PhiForCausalLM

    model = PhiForCausalLM(PhiConfig(**sizes(), **settings))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def sizes() -> dict[str, int]:
    return {
        "vocab_size": 90,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 90, (3, 12), generator=generator)
    attention = torch.ones_like(ids)
    attention[0, :4] = 0
    response = torch.ones(3, 5, dtype=torch.bool)
    response[1, 3:] = False
    attention[1, -2:] = 0
    return ids, attention, response


def from_whole_logits(model: Any) -> torch.Tensor:
    ids, attention, response = batch()
    position_ids = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=position_ids).logits
    logprobs = (logits.float() / TEMPERATURE).log_softmax(-1)[:, -6:-1]
    return logprobs.gather(2, ids[:, -5:].unsqueeze(2)).squeeze(2)[response]


@pytest.mark.parametrize(
    ("make", "tied"),
    [*itertools.product([llama, gemma2, granite, gpt2], [False, True]), (phi, False)],
)
def test_logprobs_and_gradients_equal_those_of_whole_logits(
    make: Any, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make(tie_word_embeddings=tied).eval()
    check_output_layer(model)
    expected = from_whole_logits(model)
    weights = torch.randn(len(expected))
    (expected * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 90 * 4)  # several chunks, the last short
    logprobs = PolicyModel(model, TEMPERATURE)(*batch())
    (logprobs * weights).sum().backward()
    torch.testing.assert_close(logprobs, expected)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(
                parameter.grad, gradients[name], atol=2e-5, rtol=1e-4, msg=name
            )


def test_scoring_in_bf16_still_normalises_in_float32() -> None:
    torch.manual_seed(1)
    model = llama().to(torch.bfloat16)
    logprobs = PolicyModel(model, TEMPERATURE)(*batch())
    assert logprobs.dtype == torch.float32
    every_token = torch.stack(
        [
            response_logprobs(
                torch.ones(1, 32, dtype=torch.bfloat16),
                PolicyModel(model, 1.0).output_layer,
                torch.tensor([token]),
                1.0,
            )
            for token in range(90)
        ]
    )
    assert float(every_token.detach().exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_no_tensor_of_positions_times_vocabulary_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocabulary, hidden_size = 64, 5_000, 8
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 4 * vocabulary)
    linear = torch.nn.Linear(hidden_size, vocabulary, bias=False)
    layer = output_layer.OutputLayer(linear)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    hidden = torch.randn(rows, hidden_size, requires_grad=True)
    with Watch():
        response_logprobs(hidden, layer, torch.arange(rows), 1.0).sum().backward()
    assert largest == hidden_size * vocabulary  # the weight's gradient; a chunk is 4 x vocabulary


def test_an_architecture_that_does_more_after_its_last_state_is_refused() -> None:
    class Shifted(type(llama())):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + torch.arange(90.0)
            return output

    with pytest.raises(UserError, match="after its last hidden state"):
        check_output_layer(Shifted(llama().config))


def test_left_padding_changes_nothing() -> None:
    torch.manual_seed(2)
    policy = PolicyModel(llama().eval(), TEMPERATURE)
    ids = torch.randint(3, 90, (1, 10))
    response = torch.ones(1, 4, dtype=torch.bool)
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.long), ids], dim=1)
    attention = torch.cat([torch.zeros(1, 7, dtype=torch.long), torch.ones_like(ids)], dim=1)
    torch.testing.assert_close(
        policy(padded, attention, response), policy(ids, torch.ones_like(ids), response)
    )


def test_critic_values_are_the_reward_heads_scores_of_prefixes(tiny_reward_dir: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_dir).eval()
    ids, attention, response = batch()
    values = ValueModel(model)(ids, attention, response).detach()
    assert (values[~response] == 0).all()
    for row, t in response.nonzero().tolist():
        start = int((attention[row] == 0)[:7].sum())
        prefix = ids[row : row + 1, start : 7 + t]
        expected = model(input_ids=prefix, attention_mask=torch.ones_like(prefix)).logits.detach()
        assert values[row, t] == pytest.approx(float(expected), abs=1e-5)


def test_backbone_refuses_a_model_without_a_head() -> None:
    with pytest.raises(UserError, match="head"):
        backbone(llama().model)


def test_a_frozen_output_layer_gets_no_gradient_and_the_states_get_the_same() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    layer = output_layer.OutputLayer(torch.nn.Linear(32, 90))
    states, actions = torch.randn(7, 32), torch.arange(7)

    def gradient(frozen: bool) -> tuple[torch.Tensor, int]:
        weight = layer.linear.requires_grad_(not frozen).weight
        hidden = states.clone().requires_grad_()
        total = response_logprobs(hidden, layer, actions, TEMPERATURE, rows=3).sum()
        made = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                nonlocal made
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor) and result.shape == weight.shape:
                    memory = result.untyped_storage().data_ptr()
                    made += memory != weight.untyped_storage().data_ptr()
                return result

        with Watch():
            total.backward()
        return hidden.grad, made

    (expected, of_trained), (found, of_frozen) = gradient(False), gradient(True)
    assert torch.equal(found, expected)
    assert of_trained > 0
    assert of_frozen == 0


@pytest.mark.parametrize("entropy", [False, True])
def test_no_position_at_all_still_gives_every_weight_a_gradient(entropy: bool) -> None:
    """A rank whose responses were all dropped: under ZeRO 1 and 2 the others wait for it."""
    model = phi()
    policy = PolicyModel(model, TEMPERATURE)
    policy.limit_vocabulary(80)
    ids, attention, response = batch()
    found = policy(ids, attention, torch.zeros_like(response), entropy=entropy)
    (sum(part.sum() for part in found) if entropy else found.sum()).backward()
    assert all(not p.grad.any() for p in model.parameters())
