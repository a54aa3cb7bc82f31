"""What goes wrong when the geometric mean of references is normalised at every token.

    python benchmarks/per_token_normalisation.py

The reverse-KL objective with several references has the optimum pi* proportional to
prod_k rho_k(y)^w_k exp(R(y) / gamma) over whole responses (Aminian et al., arXiv 2502.01203). An
ensemble decoder mixes logits and normalises at every token: that is another distribution, whose
log-probability of a response is larger by sum_t -log Z_t, Z_t <= 1 being the normaliser at each of
its prefixes. Here every response of a small world is enumerated, so that all numbers are exact.
"""

from __future__ import annotations

import itertools
import statistics

import torch
from torch import Tensor

END = 0
END_LOGIT = -2.0  # ends are rarer than words, so that some responses are long


def responses(vocabulary: int, longest: int) -> list[tuple[int, ...]]:
    """Every response: it ends with END, or is cut at the longest length."""
    words = range(1, vocabulary)
    ended = [(*body, END) for n in range(longest) for body in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=longest))


def sequence_sums(values: dict[tuple[int, ...], Tensor], texts: list[tuple[int, ...]]) -> Tensor:
    """Sums along each response of values[prefix][next token]."""
    return torch.stack([sum(values[s[:t]][s[t]] for t in range(len(s))) for s in texts])  # type: ignore[misc]


def one_world(vocabulary: int, longest: int, gamma: float, seed: int) -> dict[str, float]:
    """Errors of the per-token form in a world with two random references and a random reward."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    texts = responses(vocabulary, longest)
    prefixes = {s[:t] for s in texts for t in range(len(s))}
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    bias = torch.tensor([END_LOGIT] + [0.0] * (vocabulary - 1), dtype=torch.float64)
    tokens = {p: (normal(2, vocabulary) + bias).log_softmax(dim=1) for p in sorted(prefixes)}
    references = [sequence_sums({p: t[k] for p, t in tokens.items()}, texts) for k in (0, 1)]
    mixed = {p: weights @ t for p, t in tokens.items()}
    exact = sequence_sums(mixed, texts)
    per_token = sequence_sums({p: m.log_softmax(dim=0) for p, m in mixed.items()}, texts)
    reward = normal(len(texts))

    def value(log_pi: Tensor) -> float:
        penalty = sum(w * (log_pi - rho) for w, rho in zip(weights, references, strict=True))
        return float((log_pi.exp() * (reward - gamma * penalty)).sum())

    best, worse = (
        (reference + reward / gamma).log_softmax(dim=0) for reference in (exact, per_token)
    )
    lengths = torch.tensor([float(len(s)) for s in texts], dtype=torch.float64)
    shift = per_token - exact  # sum_t -log Z_t
    return {
        "shift": float((best.exp() * shift).sum()),
        "spread": float(_std(shift, best.exp())),
        "variation": float(0.5 * (best.exp() - worse.exp()).abs().sum()),
        "loss": value(best) - value(worse),
        "length": float((best.exp() * lengths).sum()),
        "longer": float(((worse.exp() - best.exp()) * lengths).sum()),
    }


def _std(x: Tensor, weight: Tensor) -> Tensor:
    mean = (weight * x).sum()
    return (weight * (x - mean).square()).sum().sqrt()


def main() -> None:
    """Print the table of docs/multi_reference.md."""
    print("| longest | shift, nats | its std | total variation | objective lost | tokens | added |")
    print("|---|---|---|---|---|---|---|")
    for longest in (1, 2, 4, 6, 8):
        worlds = [one_world(3, longest, gamma=1.0, seed=seed) for seed in range(20)]
        mean = {name: statistics.mean(w[name] for w in worlds) for name in worlds[0]}
        print(
            f"| {longest} | {mean['shift']:.3f} | {mean['spread']:.3f} | {mean['variation']:.3f} "
            f"| {mean['loss']:.4f} | {mean['length']:.2f} | {mean['longer']:+.2f} |"
        )


if __name__ == "__main__":
    main()
