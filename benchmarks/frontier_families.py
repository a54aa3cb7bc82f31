"""Do the words of a family lie together in a model's input table? For the embedded example.

    python benchmarks/frontier_families.py MODEL [--permute SEED]

Mean distance (L2, over the mean of all pairs of distinct words) and cosine of two words of one
family, of two families of one slot, and of different slots; and how often a word's nearest other
word is of its family. Words of several tokens are left out.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from dschat.example.grammar import FACT_OF_WORD
from dschat.regularization.ground.permutation import permuted
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--permute", type=int, metavar="SEED")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    table = model.get_input_embeddings().weight.detach()
    if given.permute is not None:
        table = permuted(table, given.permute, tokenizer.all_special_ids)
    ids = {w: tokenizer.encode(f" {w}", add_special_tokens=False) for w in FACT_OF_WORD}
    words = [w for w, tokens in ids.items() if len(tokens) == 1]
    rows = table[[ids[w][0] for w in words]].double()
    distance = torch.cdist(rows, rows)
    cosine = torch.cosine_similarity(rows.unsqueeze(0), rows.unsqueeze(1), dim=2)
    kinds: dict[str, list[tuple[int, int]]] = {"family": [], "slot": [], "other": []}
    for i, j in itertools.combinations(range(len(words)), 2):
        (slot, family), (other_slot, other_family) = (FACT_OF_WORD[words[k]] for k in (i, j))
        same = "slot" if slot == other_slot else "other"
        kinds["family" if same == "slot" and family == other_family else same].append((i, j))
    mean = distance.sum() / (len(words) * (len(words) - 1))
    print(f"{len(words)} of {len(ids)} words are one token")
    for name, pairs in kinds.items():
        at = tuple(torch.tensor(pairs).T)
        print(
            f"{name}: {len(pairs)} pairs, distance {float(distance[at].mean() / mean):.3f}, "
            f"cosine {float(cosine[at].mean()):+.3f}"
        )
    nearest = (distance + torch.eye(len(words)) * 1e9).argmin(1).tolist()
    of_family = [FACT_OF_WORD[words[i]] == FACT_OF_WORD[words[j]] for i, j in enumerate(nearest)]
    print(f"nearest word is of the family: {sum(of_family) / len(of_family):.3f}")


if __name__ == "__main__":
    main()
