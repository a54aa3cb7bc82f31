"""What a penalty measures near the reference, on a real model, and whether meaning is in it.

    python benchmarks/penalty_semantics.py MODEL --regularizer sinkhorn_divergence

For every regulariser and cost: the root mean square of phi under logit noise, its correlation with
the log-ratio (KL's phi) and with its own phi where the rows of the table are permuted within bands
of like norm and frequency, and seconds. Positions are those of a fixed text; policy logits are the
model's plus noise x normal.
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import torch
from dschat.regularization import KLDivergence, regularizer_from_config
from dschat.regularization.ground.permutation import permuted
from dschat.settings.parts import REGULARIZERS
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "The river was low that summer, and the old bridge stood on dry stones. Three boys from the "
    "village crossed it every morning to reach the school on the other side of the valley."
)
NOISES = (0.01, 0.1, 0.3, 1.0)
COST_TYPES = ("L2", "cos", "cos_centred", "cos_whitened")


def correlation(left: torch.Tensor, right: torch.Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([left.double(), right.double()]))[0, 1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--regularizer", nargs="+", default=["sinkhorn_divergence"])
    parser.add_argument("--cost_type", nargs="+", default=COST_TYPES)
    parser.add_argument("--permutation_seed", type=int, default=1)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    with torch.no_grad():
        reference = model(tokenizer(TEXT, return_tensors="pt").input_ids).logits[0]
    table = model.get_input_embeddings().weight.detach()
    control = permuted(table, given.permutation_seed, tokenizer.all_special_ids)
    generator = torch.Generator().manual_seed(0)
    drift = torch.randn(reference.shape, generator=generator)
    print("| regulariser | cost | noise | rms phi | with KL | with permuted | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in given.regularizer:
        for cost_type in given.cost_type:
            config = SimpleNamespace(regularizer=name, cost_type=cost_type)
            target = REGULARIZERS[name].load()
            own, other = (
                regularizer_from_config(config, token_embeddings=rows, target=target)
                for rows in (table, control)
            )
            for noise in NOISES:
                policy = reference + noise * drift
                actions = torch.multinomial(policy.softmax(1), 1, generator=generator)[:, 0]
                started = time.perf_counter()
                phi = own(policy, reference, actions).token
                seconds = time.perf_counter() - started
                kl = KLDivergence()(policy, reference, actions).token
                permuted_phi = other(policy, reference, actions).token
                print(
                    f"| {name} | {cost_type} | {noise:g} | {float(phi.square().mean().sqrt()):.2e} "
                    f"| {correlation(phi, kl):.2f} | {correlation(phi, permuted_phi):.2f} "
                    f"| {seconds:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
