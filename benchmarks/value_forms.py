"""Cosine between the value forms' policy gradient and that of the divergence, over drift.

    python benchmarks/value_forms.py

Exact, on random problems with a fixed seed: 64 tokens, reference logits standard normal, policy
logits = reference + drift x standard normal; mean of 64 problems, gradients in logits at one
position. 1 means that the published estimate trains what it measures.
"""

from __future__ import annotations

import torch
from dschat.regularization.divergences import CONTROL_VARIATES, F_FUNCTIONS

DRIFTS = (0.01, 0.1, 0.3, 1.0, 2.0)
CASES = [
    ("rkl", 0.5, False),
    ("rkl", 0.5, True),
    ("alpha", 0.1, False),
    ("alpha", 0.5, False),
    ("js", 0.5, False),
    ("tv", 0.5, False),
    ("chi", 0.5, False),
    ("alpha", 0.9, False),
    ("fkl", 0.5, False),
    ("fkl", 0.5, True),
]


def cosine(name: str, alpha: float, low_variance: bool, drift: float) -> float:
    """Mean over problems."""
    generator = torch.Generator().manual_seed(0)
    reference, noise = torch.randn(2, 64, 64, generator=generator, dtype=torch.float64)
    log_pi = (reference + drift * noise).log_softmax(1)
    l = log_pi - reference.log_softmax(1)
    f = F_FUNCTIONS[name](alpha)
    value = f.value(l) + (CONTROL_VARIATES[name](l) if low_variance else 0.0)
    # sum_a grad pi(a) phi(a) in logits: pi (phi - mean phi).
    pi = log_pi.exp()
    of_value, of_divergence = (
        pi * (phi - (pi * phi).sum(1, keepdim=True)) for phi in (value, f.derivative(l))
    )
    return float(torch.cosine_similarity(of_value, of_divergence, dim=1).mean())


def main() -> None:
    """Print the table."""
    print("| value form | " + " | ".join(f"drift {d:g}" for d in DRIFTS) + " |")
    print("|---" * (len(DRIFTS) + 1) + "|")
    for name, alpha, low_variance in CASES:
        label = name + (f" {alpha:g}" if name == "alpha" else "")
        label += " --f_div_low_var" if low_variance else ""
        cells = (f"{cosine(name, alpha, low_variance, d):+.2f}" for d in DRIFTS)
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
