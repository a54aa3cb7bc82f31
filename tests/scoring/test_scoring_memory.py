"""The high-water mark of scoring does not grow with the vocabulary (a process for each size)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from launch import environment

MEASURE = """
import resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from dschat.models.policy import PolicyModel
from dschat.regularization import FDivergence, TruncatedWasserstein
from dschat.rollout.experience import make_rollout
from dschat.models.references import Reference
from dschat.scoring.scoring import PenaltyScorer

vocabulary, name = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
def policy():
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=64, intermediate_size=64,
                         num_hidden_layers=1, num_attention_heads=2)
    return PolicyModel(LlamaForCausalLM(config).eval(), 1.0)
cpu = torch.device("cpu")
actor, reference = policy(), Reference(policy(), cpu)
embeddings = reference.policy.model.get_input_embeddings().weight.detach()
regularizer = {
    "js": lambda: FDivergence("js", form="gradient"),
    "wasserstein": lambda: TruncatedWasserstein(embeddings, cost_dim=16, top_k=8),
}[name]()
ids = torch.randint(5, vocabulary, (32, 80)).tolist()
rollouts = [make_rollout([x[:16] for x in rows], [x[16:] for x in rows], [""] * 16, [""] * 16,
                         [{}] * 16, 1, 0, cpu) for rows in (ids[:16], ids[16:])]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
PenaltyScorer(regularizer, [reference], 1.0)(actor, rollouts)
print(peak() - before)
"""


def increase_mib(vocabulary: int, name: str) -> float:
    command = [sys.executable, "-c", MEASURE, str(vocabulary), name]
    # Freed blocks go back to the system at once: what is alive is measured, not glibc's heap, which
    # keeps hundreds of MiB in some runs and not in others.
    env = environment(MALLOC_MMAP_THRESHOLD_="1048576")
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["js", "wasserstein"])
def test_the_peak_grows_by_less_than_a_few_chunks_when_the_vocabulary_grows_16_fold(name: str):
    # 2048 positions: logits of the whole batch would take 31 MiB at 4,000 tokens and 500 MiB at
    # 64,000, for policy and reference each; a chunk takes 36 MiB at either.
    small, large = increase_mib(4_000, name), increase_mib(64_000, name)
    # Some ten of them are alive at once; at 4,000 tokens a micro-batch does not fill a chunk. Ten
    # tensors of the whole batch would be 5,000 MiB.
    assert large - small < 250
    assert large < 450
