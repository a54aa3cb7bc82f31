"""Let a language model judge which of two models' responses are better.

OPENAI_API_KEY=... python evaluation/gpt4-eval.py --model_name_a results/A-sampled.jsonl \
    --model_name_b results/B-sampled.jsonl --dataset summarize --output results/A-v.s.-B.jsonl

OPENAI_BASE_URL=http://host:port/v1 names any compatible server.
"""

from dschat.settings.command_line import run_script
from dschat.settings.judging import parse_judge_config


def main() -> None:
    """Parse the settings and run."""
    config = parse_judge_config(description=__doc__)

    from dschat.evaluation.judging.judge import judge_pairs

    judge_pairs(config)


if __name__ == "__main__":
    run_script(main)
