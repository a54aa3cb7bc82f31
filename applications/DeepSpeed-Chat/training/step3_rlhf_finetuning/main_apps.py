r"""Step 3 on APPS: PPO by unit tests, near the reference by KL or an f-divergence.

    deepspeed main_apps.py --actor_model_name_or_path ../../models/apps/sft \
        --data_path codeparrot/apps --data_split 2,4,4 --f_div rkl --kl_ctl 0.05 \
        --output_dir ../../models/apps/kl

`--help` explains every flag; a YAML or JSON file of the same names can come first.
"""

from dschat.commands.ppo import PROGRAMS, main

if __name__ == "__main__":
    main(__doc__, PROGRAMS)
