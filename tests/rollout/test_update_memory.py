"""No tensor of batch x length x vocabulary exists in an update, forward or backward."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from dschat.algorithms import ppo_policy_loss
from dschat.models import output_layer
from dschat.models.policy import PolicyModel
from launch import environment
from small_models import VOCABULARY, small_model
from torch.utils._python_dispatch import TorchDispatchMode

MEASURE = """
import resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from dschat.algorithms import ppo_policy_loss
from dschat.models.policy import PolicyModel

vocabulary = int(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(vocab_size=vocabulary, hidden_size=64, intermediate_size=64,
                     num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=True)
policy = PolicyModel(LlamaForCausalLM(config), 1.0)
ids = torch.randint(5, vocabulary, (32, 80))
mask = torch.ones(32, 64, dtype=torch.bool)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
flat, entropy = policy(ids, torch.ones_like(ids), mask, entropy=True)
logprobs = flat.view(32, 64)
loss = ppo_policy_loss(logprobs, logprobs.detach(), torch.randn(32, 64), mask, 0.2)
(loss - 0.1 * entropy.mean()).backward()
print(peak() - before)
"""


class Largest(TorchDispatchMode):
    """Notes the most elements that a result with a side of vocabulary size has."""

    def __init__(self, weight: torch.Size) -> None:
        super().__init__()
        self.elements = 0
        self.weights = {tuple(weight), tuple(reversed(weight))}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) in self.weights:
                continue
            if VOCABULARY in tensor.shape:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_an_update_never_holds_positions_times_vocabulary(
    monkeypatch: Any, shared: bool, with_entropy: bool
) -> None:
    chunk = 3
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", chunk * VOCABULARY)
    policy = PolicyModel(small_model("llama"), 0.8)
    ids = torch.randint(2, VOCABULARY, (8, 20), generator=torch.Generator().manual_seed(0))
    if shared:
        ids[:, :9] = ids[0, :9]
    mask = torch.ones(8, 11, dtype=torch.bool)
    weight = policy.output_layer.weights()[0].shape
    with Largest(weight) as largest:
        found = policy(ids, torch.ones_like(ids), mask, entropy=with_entropy)
        logprobs = (found[0] if with_entropy else found).view(8, 11)
        loss = ppo_policy_loss(logprobs, logprobs.detach(), torch.randn(8, 11), mask, 0.2)
        if with_entropy:
            loss = loss - 0.1 * found[1].mean()
        loss.backward()
    assert largest.elements == chunk * VOCABULARY
    assert all(p.grad is not None for p in policy.parameters())


@pytest.mark.slow
def test_the_peak_of_an_update_grows_by_a_few_chunks_when_the_vocabulary_grows_16_fold() -> None:
    def increase_mib(vocabulary: int) -> float:
        # Freed blocks go back to the system at once (see test_scoring_memory.py).
        env = environment(MALLOC_MMAP_THRESHOLD_="1048576")
        command = [sys.executable, "-c", MEASURE, str(vocabulary)]
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return float(result.stdout.splitlines()[-1])

    # 2048 positions: their logits would take 31 MiB at 4,000 tokens and 500 MiB at 64,000, and
    # as much again for each of softmax and gradient. A chunk takes 36 MiB, the weight's gradient
    # 16.
    small, large = increase_mib(4_000), increase_mib(64_000)
    assert large - small < 250
    assert large < 400
