r"""Judge blind, in the terminal, which of two models' responses are better.

    python evaluation/human-eval.py --model_a results/A-sampled.jsonl \
        --model_b results/B-sampled.jsonl --dataset summarize --output results/A-v.s.-B-human.jsonl
"""

from dschat.commands.judge import by_hand

if __name__ == "__main__":
    by_hand(__doc__)
