r"""Compare models by their responses to the same prompts: rewards, accuracy, divergences, ROUGE.

    python evaluation/compare.py results/wpr_step-100.jsonl results/kl_step-100.jsonl \
        --references openai/summarize_from_feedback --output comparison

compares files of responses. Or let models respond first, all with the same random numbers:

    python evaluation/compare.py --models WPR=runs/wpr/step-100/actor KL=runs/kl/step-100/actor \
        --reference_models SFT=runs/sft --dataset Dahoas/rm-static --reward_model runs/rm/step_96
"""

from dschat.commands.compare import main

if __name__ == "__main__":
    main(__doc__)
