"""What the published Wasserstein potential pays or charges for a token, on a model of yours.

    python benchmarks/published_mean.py MODEL [--epsilons 0.01 0.2 0.68]

The policy is the model with 0.3 x standard normal noise on its logits, at the 135 positions of a
text. Printed for each epsilon, plain and with --normalize: what the scripts say at the start,
the mean of f under the policy, and how far f is from what it would be without distances.
"""

from __future__ import annotations

import argparse
import time

import torch
from dschat.regularization import SinkhornDivergence, TruncatedWasserstein
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = """Bread is made of flour, water, salt and yeast. First mix them, then wait until the dough
has risen, then bake it in a hot oven for half an hour. The crust should sound hollow when you knock
on it. What can go wrong? If the water is too hot the yeast dies and nothing rises; if the dough is
too dry the crumb will be dense, and if it is left alone for too long it will taste of vinegar. Use
a scale rather than cups, write down what you did, and change one thing at a time. After a few weeks
you will know your oven, and the bread will be better than most of what can be bought."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.01, 0.2, 0.68])
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        reference = model(input_ids=ids).logits[0, 8:-1].float()
    torch.manual_seed(0)
    policy = reference + 0.3 * torch.randn_like(reference)
    actions = policy.softmax(1).multinomial(1).squeeze(1)
    points = model.get_input_embeddings().weight.detach()[: reference.shape[1]]
    print(f"{len(actions)} positions, {len(points)} tokens")
    for epsilon in options.epsilons:
        for normalize in (False, True):
            begin = time.process_time()
            penalty = TruncatedWasserstein(points, epsilon=epsilon, normalize=normalize)
            found = penalty(policy, reference, actions)
            figures = {**penalty.diagnose(), **found.metrics}
            print(
                f"epsilon {epsilon:g}{' --normalize' if normalize else '':12} nearest / epsilon "
                f"{figures['nearest_cost_over_epsilon']:.3g}, coupled tokens "
                f"{figures['coupled_tokens']:.0%}, distance effect "
                f"{figures['distance_effect']:.2g}, mean f {figures['expected_potential']:+.3g}, "
                f"<P, C> {found.divergence.mean():.3g}, {time.process_time() - begin:.1f} CPU s"
            )
    found = SinkhornDivergence(points)(policy, reference, actions)
    print(f"Sinkhorn divergence, defaults: mean D {found.divergence.mean():.3g}")


if __name__ == "__main__":
    main()
