r"""Answer held-out prompts with a trained policy and score the answers with a reward model.

    python inference/inference_with_rewards.py --proj-path applications/DeepSpeed-Chat \
        --dataset summarize --model applications/DeepSpeed-Chat/models/summarize/NAME/step-N \
        --reward-model applications/DeepSpeed-Chat/models/summarize/REWARD/step_N \
        --temperature 0.8 --gpu 0 --batch-size 16

Several GPUs: deepspeed inference/inference_with_rewards.py ... without --gpu.
"""

from dschat.commands.respond import main

if __name__ == "__main__":
    main(__doc__)
