r"""Step 3: PPO that stays near its reference by a Wasserstein penalty (WPR, arXiv 2602.01685).

    deepspeed main_wpr.py --actor_model_name_or_path ../../models/summarize/sft \
        --critic_model_name_or_path ../../models/summarize/reward_model/step_581 \
        --data_path openai/summarize_from_feedback --cost_dim 512 --top_k 128 --kl_ctl 0.05 \
        --output_dir ../../models/summarize/wpr

`--help` explains every flag; a YAML or JSON file of the same names can come first.
"""

from dschat.commands.ppo import WASSERSTEIN, main

if __name__ == "__main__":
    main(__doc__, WASSERSTEIN)
