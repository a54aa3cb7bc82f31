"""Judge blind, in the terminal, which of two models' responses are better.

python evaluation/human-eval.py --model_a results/A-sampled.jsonl \
    --model_b results/B-sampled.jsonl --dataset summarize --output results/A-v.s.-B-human.jsonl
"""

from dschat.settings.command_line import parse_config, run_script
from dschat.settings.judging import HumanConfig


def main() -> None:
    """Parse the settings and run."""
    config = parse_config(HumanConfig, description=__doc__)

    from dschat.evaluation.judging.human import judge_by_hand

    judge_by_hand(config)


if __name__ == "__main__":
    run_script(main)
