r"""Step 3: PPO that stays near its reference by KL or an f-divergence.

    deepspeed main.py --actor_model_name_or_path ../../models/summarize/sft \
        --critic_model_name_or_path ../../models/summarize/reward_model/step_581 \
        --data_path openai/summarize_from_feedback --f_div rkl --kl_ctl 0.05 \
        --output_dir ../../models/summarize/kl

`--help` explains every flag; a YAML or JSON file of the same names can come first.
"""

from dschat.commands.ppo import main

if __name__ == "__main__":
    main(__doc__)
