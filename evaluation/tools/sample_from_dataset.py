"""Draw a sample of a model's responses, the same prompts for every model.

python evaluation/tools/sample_from_dataset.py --filepath results/NAME.jsonl \
    --savepath results/NAME-sampled.jsonl --dataset summarize
"""

from dschat.settings.command_line import parse_config, run_script
from dschat.settings.judging import SampleConfig


def main() -> None:
    """Parse the settings and run."""
    config = parse_config(SampleConfig, description=__doc__)

    from dschat.evaluation.judging.sampling import sample_from_dataset

    sample_from_dataset(config)


if __name__ == "__main__":
    run_script(main)
