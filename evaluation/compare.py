r"""Compare two models' responses to the same prompts: rewards, ROUGE, the largest differences.

    python evaluation/compare.py results/wpr_step-100.jsonl results/kl_step-100.jsonl \
        --references openai/summarize_from_feedback --output comparison
"""

from dschat.commands.compare import main

if __name__ == "__main__":
    main(__doc__)
