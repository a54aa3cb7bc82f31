"""How closely the token penalties of a trained policy follow its log-ratio, over epsilon.

    OUT=runs/quickstart-seed1      # what scripts/quickstart.sh leaves
    python benchmarks/trained_correlation.py --policy $OUT/ppo_kl/step-50/actor \
        --reference $OUT/sft --prompts $OUT/example/data --figure assets/trained_correlation.png

samples one response per prompt from the policy and prints the correlation of each token penalty
with log(pi / rho) at the sampled tokens. Both models are Hugging Face folders of causal language
models; the prompts are a JSON-lines file with a column "prompt", or a folder with `test.jsonl`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from dschat.regularization import (
    FDivergence,
    KLDivergence,
    PolicyRegularizer,
    SinkhornDivergence,
    TruncatedWasserstein,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

EPSILONS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
BATCH = 64


def read_prompts(path: str, count: int) -> list[str]:
    """The first ``count`` prompts."""
    file = Path(path) / "test.jsonl" if Path(path).is_dir() else Path(path)
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line, _ in zip(lines, range(count), strict=False)]


@torch.no_grad()
def sampled_positions(
    options: argparse.Namespace, prompts: list[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Policy and reference logits [N, V], tokens [N] and the reference's embeddings [V, D]."""
    tokenizer = AutoTokenizer.from_pretrained(options.reference, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (options.policy, options.reference)
    )
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(prompts), BATCH):
        inputs = tokenizer(prompts[start : start + BATCH], return_tensors="pt", padding=True)
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        sequences = policy.generate(
            **inputs,
            do_sample=True,
            temperature=options.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=options.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        begin = inputs["input_ids"].shape[1]
        response = sequences[:, begin:]
        ended = (response == tokenizer.eos_token_id).cumsum(1)
        inside = (ended - (response == tokenizer.eos_token_id).int()) == 0
        mask = torch.cat([inputs["attention_mask"], inside.long()], dim=1)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = [
            model(input_ids=sequences, attention_mask=mask, position_ids=places).logits[
                :, begin - 1 : -1
            ][inside]
            / options.temperature
            for model in (policy, reference)
        ]
        parts.append((logits[0], logits[1], response[inside]))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return columns[0], columns[1], columns[2], reference.get_input_embeddings().weight


def penalties(points: Tensor, epsilon: float) -> dict[str, PolicyRegularizer]:
    """By name, at an epsilon relative to the mean distance of tokens."""
    sinkhorn = SinkhornDivergence(points, 128, epsilon)
    return {
        "KL": KLDivergence(),
        "JS, gradient form": FDivergence("js", form="gradient"),
        "published Wasserstein": TruncatedWasserstein(
            points, epsilon=epsilon * sinkhorn.distance.mean
        ),
        "Sinkhorn divergence": sinkhorn,
    }


def main() -> None:
    """Parse the flags, sample, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", required=True, help="folder of the trained policy")
    parser.add_argument("--reference", required=True, help="folder of its reference")
    parser.add_argument("--prompts", required=True, help="JSON lines, or a folder with test.jsonl")
    parser.add_argument("--num_prompts", type=int, default=256)
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", help="file for the plot")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    prompts = read_prompts(options.prompts, options.num_prompts)
    policy, reference, actions, points = sampled_positions(options, prompts)
    ratios = policy.log_softmax(1) - reference.log_softmax(1)
    ratio = ratios.gather(1, actions.unsqueeze(1)).squeeze(1)
    print(
        f"{len(prompts)} prompts, {len(actions)} tokens, vocabulary {policy.shape[1]}; mean "
        f"log-ratio {float(ratio.mean()):.3f}, deviation {float(ratio.std()):.3f}"
    )
    lines: dict[str, list[float]] = {}
    for epsilon in EPSILONS:
        for name, penalty in penalties(points.float(), epsilon).items():
            token = penalty(policy, reference, actions).token
            correlation = float(torch.corrcoef(torch.stack([token, ratio]))[0, 1])
            lines.setdefault(name, []).append(correlation)
    print(f"  {'epsilon / mean distance':24}" + "".join(f"{e:8g}" for e in EPSILONS))
    for name, values in lines.items():
        print(f"  {name:24}" + "".join(f"{value:8.3f}" for value in values))
    if options.figure:
        from penalty_figures import draw_correlation

        draw_correlation(options.figure, EPSILONS, lines)


if __name__ == "__main__":
    main()
