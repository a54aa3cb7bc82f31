r"""Solve held-out programming problems with a trained policy and score its programs by their tests.

    python inference/inference_apps.py --proj-path applications/DeepSpeed-Chat \
        --dataset apps --model applications/DeepSpeed-Chat/models/apps/NAME/step-N \
        --temperature 0.8 --gpu 0 --batch-size 16

Several GPUs: deepspeed inference/inference_apps.py ... without --gpu.
"""

from dschat.commands.respond import programs

if __name__ == "__main__":
    programs(__doc__)
