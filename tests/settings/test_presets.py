"""--preset: defaults by a name, below the config file and the flags that are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dschat.errors import UserError
from dschat.settings.algorithms.presets import PRESETS
from dschat.settings.online_scripts import GRPO, PPO

MODELS = "--actor_model_name_or_path a --output_dir o --reward math --critic_model_name_or_path a"
ALONE = "--actor_model_name_or_path a --output_dir o --reward math"


def needs_critic(name: str) -> bool:
    return PRESETS[name].load().get("algorithm") == "ppo"


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_run_has_what_its_preset_says(name: str) -> None:
    models = MODELS if needs_critic(name) else ALONE
    config = PPO.parse([*models.split(), "--preset", name])
    for setting, value in PRESETS[name].load().items():
        assert getattr(config, setting) == value, setting
    assert config.as_flags()["preset"] == name
    assert config.given_flags() == sorted(
        {f.removeprefix("--") for f in models.split() if f.startswith("--")} | {"preset"}
    )


def test_a_flag_overrides_the_preset() -> None:
    config = PPO.parse([*ALONE.split(), *["--preset", "dapo", "--clip_range_high", "0.5"]])
    assert (config.clip_range_high, config.num_generations) == (0.5, 16)
    paid = ["--preset", "dr_grpo", "--regularizer", "smoothed_kl", "--kl_ctl", "0.1"]
    assert PPO.parse([*ALONE.split(), *paid]).penalty_coefficient == 0.1


def test_its_parts_bring_their_flags() -> None:
    config = PPO.parse([*ALONE.split(), *["--preset", "gspo", "--gspo_clip_range", "0.1"]])
    assert (config.gspo_clip_range, config.gspo_clip_range_high) == (0.1, 4e-4)


def test_the_file_that_a_run_writes_says_the_same_again(tmp_path: Path) -> None:
    first = PPO.parse([*ALONE.split(), "--preset", "dr_grpo", "--temperature", "0.5"])
    file = tmp_path / "config.yaml"
    values = {**first.as_flags(), "run": {"given": first.given_flags()}}
    file.write_text(yaml.safe_dump(values))
    assert PPO.parse([str(file)]) == first
    other = PPO.parse([str(file), "--preset", "verl_grpo"])
    assert (other.loss_normalization, other.kl_ctl, other.temperature) == ("token", 0.001, 0.5)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--preset trl", r"no preset named 'trl'.*Known: trl_grpo, .*dapo"),
        ("--preset trl_grpo --advantage rloo", r"The preset sets .*--scale_rewards True"),
        (
            "--preset gspo --clip_range 0.1",
            "--clip_range: --policy_loss gspo does not clip",
        ),
        (
            "--preset dr_grpo --regularizer smoothed_kl",
            "--preset dr_grpo sets --kl_ctl 0.*Give --kl_ctl",
        ),
    ],
)
def test_what_does_not_fit_is_refused(typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPO.parse([*ALONE.split(), *typed.split()])


def test_a_script_without_a_critic_has_no_preset_with_one() -> None:
    near = ["--ref_a", "a", "--ref_b", "b", "--model_out", "o"]
    assert GRPO.parse([*near, "--preset", "dr_grpo"]).loss_constant == 256
    with pytest.raises(UserError, match="--preset sets --algorithm ppo, which this script"):
        GRPO.parse([*near, "--preset", "verl_ppo"])
