r"""Draw a sample of a model's responses, the same prompts for every model.

    python evaluation/tools/sample_from_dataset.py --filepath results/NAME.jsonl \
        --savepath results/NAME-sampled.jsonl --dataset summarize
"""

from dschat.commands.judge import sample

if __name__ == "__main__":
    sample(__doc__)
