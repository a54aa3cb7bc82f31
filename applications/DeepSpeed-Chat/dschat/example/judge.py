"""`python -m dschat.example.judge COMPARISON.json`: the gold score of each policy's responses.

The reward model is what PPO maximises; the gold score is what its pairs were ranked by. Where the
first rises and the second does not, the policy has found what the reward model overlooks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean

from dschat.errors import UserError
from dschat.example.posts import read_facts
from dschat.example.summaries import best_score, gold_score


def gold_scores(comparison: str | Path) -> dict[str, float]:
    """Mean gold score by policy, and that of the best possible summaries under "best possible".

    Args:
        comparison: comparison.json of `dschat.evaluation.run_comparison` on the example's prompts.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        result = json.loads(Path(comparison).read_text(encoding="utf-8"))
        facts = [read_facts(prompt) for prompt in result["prompts"]]
        responses = {name: p["responses"] for name, p in result["policies"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{comparison} is no comparison.json of the example: {error}") from error
    scores = {
        name: mean(gold_score(f, text) for f, text in zip(facts, texts, strict=True))
        for name, texts in responses.items()
    }
    return {**scores, "best possible": mean(map(best_score, facts))}


def main(arguments: list[str]) -> int:
    """Print the scores; returns the exit code."""
    if len(arguments) != 1:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 1
    try:
        scores = gold_scores(arguments[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("Gold score (the rule behind the preferences; the reward model only approximates it):")
    print("  " + ", ".join(f"{name} {score:.2f}" for name, score in scores.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
