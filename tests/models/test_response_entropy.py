"""Entropy by chunks against torch.distributions and autograd on whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dschat.models.output_layer import OutputLayer
from dschat.models.response_logprobs import response_logprobs, response_logprobs_and_entropy
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode

TEMPERATURE, POSITIONS, SIZE, TOKENS = 0.7, 7, 16, 50
DESIGNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.25},
    "capped": {"softcap": 3.0},
    "both": {"scale": 1.7, "softcap": 4.0},
    "cut": {"width": 41},
}


def layer_of(design: str, bias: bool = True, **options: Any) -> OutputLayer:
    torch.manual_seed(0)
    linear = torch.nn.Linear(SIZE, TOKENS, bias=bias, **options)
    return OutputLayer(linear, **DESIGNS[design])


def whole_logits(layer: OutputLayer, hidden: torch.Tensor) -> torch.Tensor:
    """What the layer's docstring says, written out."""
    logits = layer.scale * layer.linear(hidden)
    if layer.softcap is not None:
        logits = layer.softcap * (logits / layer.softcap).tanh()
    return logits[:, : layer.width] / TEMPERATURE


@pytest.mark.parametrize("design", list(DESIGNS))
@pytest.mark.parametrize("rows", [3, 100])
def test_values_and_gradients_in_float64(design: str, rows: int) -> None:
    layer = layer_of(design, dtype=torch.float64)
    hidden = (2 * torch.randn(POSITIONS, SIZE, dtype=torch.float64)).requires_grad_()
    actions = torch.arange(POSITIONS) * 5
    weights = torch.randn(2, POSITIONS, dtype=torch.float64)
    leaves = [hidden, layer.linear.weight, layer.linear.bias]
    whole = Categorical(logits=whole_logits(layer, hidden))
    expected = torch.stack([whole.log_prob(actions), whole.entropy()])
    found = torch.stack(
        response_logprobs_and_entropy(hidden, layer, actions, TEMPERATURE, rows=rows)
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    # Each alone, and both at once.
    for mix in ([1.0, 0.0], [0.0, 1.0], [1.0, -0.3]):
        factor = weights * torch.tensor(mix, dtype=torch.float64).unsqueeze(1)
        wanted = torch.autograd.grad((expected * factor).sum(), leaves, retain_graph=True)
        given = torch.autograd.grad((found * factor).sum(), leaves, retain_graph=True)
        torch.testing.assert_close(given, wanted, atol=1e-12, rtol=1e-10)


def test_log_probabilities_are_those_without_the_entropy_to_the_bit() -> None:
    layer = layer_of("both")
    hidden, actions = torch.randn(POSITIONS, SIZE), torch.arange(POSITIONS)
    alone = response_logprobs(hidden, layer, actions, TEMPERATURE, rows=3)
    found, _ = response_logprobs_and_entropy(hidden, layer, actions, TEMPERATURE, rows=3)
    assert torch.equal(alone, found)


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0, 40.0])
def test_float32_is_exact_from_uniform_to_certain(spread: float) -> None:
    # 32,000 logits of that standard deviation around 25.
    torch.manual_seed(1)
    layer = OutputLayer(torch.nn.Linear(1, 32_000))
    with torch.no_grad():
        layer.linear.weight.normal_(std=spread)
        layer.linear.bias.fill_(25.0)
    hidden, actions = torch.ones(2, 1, requires_grad=True), torch.zeros(2, dtype=torch.long)
    _, found = response_logprobs_and_entropy(hidden, layer, actions, 1.0)
    logits = layer.linear(hidden).detach().double().requires_grad_()
    expected = Categorical(logits=logits).entropy()
    assert found.detach().double() == pytest.approx(expected.detach(), rel=5e-6, abs=2e-6)
    (of_logits,) = torch.autograd.grad(expected.sum(), logits)
    (given,) = torch.autograd.grad(found.sum(), layer.linear.bias)
    torch.testing.assert_close(given.double(), of_logits.sum(0), atol=1e-6, rtol=1e-4)


def test_bf16_weights_give_float32_entropies() -> None:
    layer = layer_of("plain", dtype=torch.bfloat16)
    hidden = torch.randn(POSITIONS, SIZE, dtype=torch.bfloat16, requires_grad=True)
    actions = torch.arange(POSITIONS)
    _, found = response_logprobs_and_entropy(hidden, layer, actions, 1.0)
    expected = Categorical(logits=layer.linear(hidden).detach().double()).entropy()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach().double(), expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert hidden.grad is not None


def test_one_product_with_the_output_layer_gives_both() -> None:
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            name = str(func)
            self.count += any(n in name for n in ("mm.default", "addmm", "linear", "matmul"))
            return func(*args, **(kwargs or {}))

    def products(function: Any) -> tuple[int, int]:
        layer = layer_of("plain", bias=False)
        hidden = torch.randn(POSITIONS, SIZE, requires_grad=True)
        with Products() as forward:
            found = function(hidden, layer, torch.arange(POSITIONS), 1.0, rows=3)
        total = found.sum() if isinstance(found, torch.Tensor) else found[0].sum() + found[1].sum()
        with Products() as backward:
            total.backward()
        return forward.count, backward.count

    assert products(response_logprobs_and_entropy) == products(response_logprobs) == (3, 9)


def test_padding_rows_cost_no_second_gradient_of_the_layer() -> None:
    """Published vocabularies are padded; half a GB for Qwen2.5-0.5B, were its weight cut."""

    class WeightSized(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.blocks: set[int] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.numel() >= 41 * SIZE:
                self.blocks.add(result.untyped_storage().data_ptr())
            return result

    layer = layer_of("cut", bias=False)
    hidden = torch.randn(POSITIONS, SIZE, requires_grad=True)
    total = response_logprobs(hidden, layer, torch.arange(POSITIONS), 1.0, rows=3).sum()
    with WeightSized() as made:
        total.backward()
    assert isinstance(layer.linear.weight, torch.Tensor)
    assert layer.linear.weight.grad is not None
    assert made.blocks <= {layer.linear.weight.grad.data_ptr(), layer.linear.weight.data_ptr()}
