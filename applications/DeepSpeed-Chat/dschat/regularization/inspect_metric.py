"""Look at a ground metric of a model's tokens before training with it.

    python -m dschat.regularization.inspect_metric MODEL [--cost_type cos_whitened] [--figure F.png]

Reads one tensor of the model's folder and its tokenizer; see docs/ground_metrics.md for what is
printed. The figures themselves are in `dschat.regularization.ground.inspection`.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dschat.errors import closed_pipe_ends_quietly
from dschat.regularization.ground.inspection import (
    Contrast,
    contrast_of,
    neighbours,
    separation,
    spelling_variants,
)
from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.permutation import permuted
from dschat.regularization.ground.points import COST_TYPES
from dschat.regularization.ground.word_pairs import NUMBERS, OPPOSITES, SYNONYMS, WORDS
from dschat.regularization.sinkhorn import EPSILONS_TO_NEAREST, LEAST_EPSILON

MOST_PAIRS = 500
SEED = 0


def table_of(folder: str, source: str) -> torch.Tensor:
    """[V, D] float32, the table of a model's folder, or the only tensor of a file.

    Raises:
        SystemExit: there is none.
    """
    if source.endswith(".safetensors"):
        files, names = [Path(source)], set()
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, trust_remote_code=False), trust_remote_code=False
            )
        layer = model.get_input_embeddings() if source == "input" else model.get_output_embeddings()
        # Of tied layers either name may have been saved.
        names = {n for n, p in model.named_parameters(remove_duplicate=False) if p is layer.weight}
        names |= {name.partition(".")[2] for name in names}
        files = sorted(Path(folder).glob("*.safetensors"))
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in list(file.keys()):
                if not names or name in names:
                    table: torch.Tensor = file.get_tensor(name).float()
                    return table
    raise SystemExit(f"error: {source} of {folder}: no such table in its *.safetensors files")


def ids_of(pairs: list[tuple[str, str]], tokenizer: Any) -> list[tuple[int, int]]:
    """The pairs whose words are both one token, after a space where there is such a token."""
    found = [(_id_of(left, tokenizer), _id_of(right, tokenizer)) for left, right in pairs]
    return [(i, j) for i, j in found if i is not None and j is not None and i != j]


def _id_of(word: str, tokenizer: Any) -> int | None:
    for text in (f" {word}", word):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1:
            return int(ids[0])
    return None


def show(metric: GroundMetric, tokenizer: Any, epsilon: float | None) -> Contrast:
    """Print the figures."""
    found = contrast_of(metric)
    fitting = max(LEAST_EPSILON, found.nearest / EPSILONS_TO_NEAREST)
    print(f"cost {metric.key}: {int(metric.used.sum())} tokens in use of {len(metric)}")
    print(f"mean cost of random pairs {found.mean:.4g}; in units of it (medians of a sample):")
    print(f"  nearest {found.nearest:.3f}  512th nearest {found.far:.3f}", end="  ")
    print(f"contrast {found.contrast:.3f}")
    epsilon = epsilon or fitting
    print(f"  nearest / epsilon {found.nearest / epsilon:.2f} at epsilon {epsilon:.3g}")
    print(f"  the kernel opens at epsilon {found.opens_at:.3f}")
    print("separation from random pairs of the same words (area under the curve, 0.5: none):")
    case, spaced = spelling_variants(tokenizer.get_vocab(), tokenizer.tokenize(" a")[0][:1])
    choice = random.Random(SEED)
    lists = {
        "case variants": choice.sample(case, min(MOST_PAIRS, len(case))),
        "space variants": choice.sample(spaced, min(MOST_PAIRS, len(spaced))),
        "synonyms": ids_of(SYNONYMS, tokenizer),
        "opposites": ids_of(OPPOSITES, tokenizer),
        "numbers": ids_of(NUMBERS, tokenizer),
    }
    for name, pairs in lists.items():
        if len(pairs) < 2:
            print(f"  {name:14} too few are single tokens")
            continue
        costs = torch.stack([metric.cost(*torch.tensor(p)[:, None])[0, 0] for p in pairs])
        mean = float(costs.mean()) / found.mean
        print(
            f"  {name:14} {separation(metric, pairs):.3f}  mean cost {mean:.3f}  {len(pairs)} pairs"
        )
    print("neighbours:")
    for word in WORDS:
        token = _id_of(word, tokenizer)
        if token is not None:
            near = [(tokenizer.decode([i]), cost) for i, cost in neighbours(metric, token)]
            print(f"  {word:8}", "  ".join(f"{text!r} {cost:.3f}" for text, cost in near))
    return found


def draw(found: Contrast, path: str) -> None:
    """The distribution of costs, and the share of the kernel off the diagonal by epsilon."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    finite = found.costs[torch.isfinite(found.costs)]
    left.hist(finite[:: max(1, len(finite) // 200_000)].numpy(), bins=100, density=True)
    left.axvline(found.nearest, color="black", linestyle=":")
    left.set_xlabel("cost / mean cost (dotted: nearest token)")
    epsilons = torch.logspace(-2, 0.5, 40)
    sums = [float(torch.exp(found.costs / -e).sum(1).median()) for e in epsilons]
    right.semilogx(epsilons, [s / (1 + s) for s in sums])
    right.axvline(found.opens_at, color="black", linestyle=":")
    right.set_xlabel("epsilon / mean cost")
    right.set_title("share of the kernel off its diagonal", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, print, draw."""
    parser = argparse.ArgumentParser(description="Figures of a ground metric.")
    parser.add_argument("model", help="a model's folder")
    parser.add_argument("--cost_type", choices=COST_TYPES, default="L2")
    parser.add_argument("--cost_components", type=int, default=10)
    parser.add_argument("--cost_power", type=float)
    parser.add_argument("--cost_saturation", type=float)
    parser.add_argument("--embedding", default="input", help="input, output or FILE.safetensors")
    parser.add_argument("--permute_embeddings", type=int, metavar="SEED")
    parser.add_argument("--epsilon", type=float, help="in units of the mean cost")
    parser.add_argument("--figure", help="where to draw")
    given = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(given.model, trust_remote_code=False)
    table = table_of(given.model, given.embedding)
    if given.permute_embeddings is not None:
        table = permuted(table, given.permute_embeddings, tokenizer.all_special_ids)
    try:
        metric = GroundMetric(
            table,
            given.cost_type,
            given.cost_components,
            given.cost_power,
            given.cost_saturation,
        )
        found = show(metric, tokenizer, given.epsilon)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if given.figure:
        draw(found, given.figure)


if __name__ == "__main__":
    with closed_pipe_ends_quietly():
        main()
