"""Step 3 on APPS: PPO by unit tests, near the reference by KL or an f-divergence.

    deepspeed main_apps.py --actor_model_name_or_path ../../models/apps/sft \
        --data_path codeparrot/apps --data_split 2,4,4 --f_div rkl --kl_ctl 0.05 \
        --output_dir ../../models/apps/kl

`--help` explains every flag; a YAML or JSON file of the same names can come first.
"""

from dschat.settings.code_online import DivergenceCodeConfig
from dschat.settings.command_line import parse_config, run_script


def main() -> None:
    """Parse the settings and train."""
    config = parse_config(DivergenceCodeConfig, description=__doc__)
    from dschat.online.code_run import train_on_programs

    train_on_programs(config)


if __name__ == "__main__":
    run_script(main)
