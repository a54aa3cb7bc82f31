"""Compare two models' responses to the same prompts: rewards, ROUGE, the largest differences.

python evaluation/compare.py results/wpr_step-100.jsonl results/kl_step-100.jsonl \
    --references openai/summarize_from_feedback --output comparison
"""

from dschat.settings.command_line import run_script
from dschat.settings.responses import parse_compare_config


def main() -> None:
    """Parse the settings and run."""
    config = parse_compare_config(description=__doc__)

    from dschat.evaluation.responses.compare import compare

    compare(config)


if __name__ == "__main__":
    run_script(main)
