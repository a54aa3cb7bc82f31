"""Solve held-out programming problems with a trained policy and score its programs by their tests.

python inference/inference_apps.py --proj-path applications/DeepSpeed-Chat \
    --dataset apps --model applications/DeepSpeed-Chat/models/apps/NAME/step-N \
    --temperature 0.8 --gpu 0 --batch-size 16

Several GPUs: deepspeed inference/inference_apps.py ... without --gpu.
"""

from dschat.settings.command_line import parse_config, run_script
from dschat.settings.inference_code import REPLACED_CODE_FLAGS, CodeInferenceConfig


def main() -> None:
    """Parse the settings and run."""
    config = parse_config(CodeInferenceConfig, None, __doc__, REPLACED_CODE_FLAGS)

    from dschat.evaluation.respond.code_run import run_code_inference

    run_code_inference(config)


if __name__ == "__main__":
    run_script(main)
