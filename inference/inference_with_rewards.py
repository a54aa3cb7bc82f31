"""Answer held-out prompts with a trained policy and score the answers with a reward model.

python inference/inference_with_rewards.py --proj-path applications/DeepSpeed-Chat \
    --dataset summarize --model applications/DeepSpeed-Chat/models/summarize/NAME/step-N \
    --reward-model applications/DeepSpeed-Chat/models/summarize/REWARD/step_N \
    --temperature 0.8 --gpu 0 --batch-size 16

Several GPUs: deepspeed inference/inference_with_rewards.py ... without --gpu.
"""

from dschat.settings.command_line import parse_config, run_script
from dschat.settings.inference import InferenceConfig


def main() -> None:
    """Parse the settings and run."""
    config = parse_config(InferenceConfig, description=__doc__)

    from dschat.evaluation.respond.run import run_inference

    run_inference(config)


if __name__ == "__main__":
    run_script(main)
