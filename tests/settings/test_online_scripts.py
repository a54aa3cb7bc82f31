"""Step 3's and GRPO's flags: tables onto one dataclass, presets, parts, what was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from dschat.errors import UserError
from dschat.settings.online import online_config
from dschat.settings.online_scripts import GRPO, PPO, PPO_APPS, WPR, WPR_APPS
from dschat.settings.penalties import (
    FDivergenceSettings,
    KLSettings,
    SinkhornSettings,
    WassersteinSettings,
)
from dschat.settings.registry import REWARDS

MODELS = "--actor_model_name_or_path a --output_dir o --critic_model_name_or_path c"
NEAR_TWO = "--ref_a a --ref_b b --model_out o"


@pytest.mark.parametrize(
    ("line", "typed", "expected"),
    [
        (PPO, "", FDivergenceSettings()),
        (PPO, "--f_div alpha --f_div_alpha 0.3", FDivergenceSettings("alpha", 0.3)),
        (PPO, "--regularizer sinkhorn_divergence --epsilon 0.05", SinkhornSettings(epsilon=0.05)),
        (PPO, "--regularizer kl --kl_estimator k3", KLSettings(kl_estimator="k3")),
        (WPR, "", WassersteinSettings()),
        (WPR, "--transport published --cost_dim 7", WassersteinSettings(cost_dim=7)),
        (WPR, "--transport sinkhorn_divergence --tol 0.1", SinkhornSettings(tol=0.1)),
        (PPO_APPS, "--f_div js", FDivergenceSettings("js")),
        (WPR_APPS, "--top_k 3", WassersteinSettings(top_k=3)),
    ],
)
def test_a_script_is_a_preset_of_a_penalty(line: Any, typed: str, expected: Any) -> None:
    config = line.parse([*MODELS.split(), *typed.split()])
    assert config.penalty == expected
    assert config.uses_reward_model == (line in (PPO, WPR))


@pytest.mark.parametrize(
    ("line", "typed", "message"),
    [
        (PPO, "--cost_dim 3", "--cost_dim belongs to --regularizer wasserstein. Remove it"),
        (PPO, "--regularizer wassertein", "named 'wassertein'. Did you mean 'wasserstein'"),
        (PPO, "--f_div_alpha 0.5", "--f_div_alpha belongs to --f_div alpha"),
        (PPO, "--algorithm grpo --gamma 1.0", "--gamma: --algorithm grpo has no critic"),
        (PPO, "--advantage rloo --lam 0.9", "--lam: --advantage rloo has no critic"),
        (PPO, "--algorithm grpo --advantage rloo", "--algorithm and --advantage both choose"),
        (PPO, "--advantage group", "no advantage named 'group'. .*Known: gae, grpo, rloo"),
        (PPO, "--policy_loss ppo", "no policy loss named 'ppo'"),
        (PPO, "--regularizer kl --kl_type fkl", "--algorithm ppo needs --fkl_estimator per_state"),
        (PPO, "--vllm_gpu_memory_utilization 0.3", "belongs to --generation_backend vllm"),
        (PPO, "--reward length", "no reward named 'length'. Known: .*reward_model"),
        (PPO, "--reward math --sandbox limits", "--sandbox belongs to --reward code"),
        (PPO, "--epsilon_high 0", "--epsilon_high 0.0: expected a number above 0"),
        (PPO, "--max_steps 3", "Unknown flag '--max_steps'"),
        (PPO, "--offload --actor_zero_stage 2", "set --actor_zero_stage and --critic_zero_stage"),
        (WPR, "--transport sinkhorn_divergence --cost_dim 5", "--cost_dim belongs to --transport"),
        (WPR, "--transport sinkhorn_divergence --normalize", "--normalize belongs to --transport"),
    ],
)
def test_flags_that_do_not_fit_are_refused(line: Any, typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        line.parse([*MODELS.split(), *typed.split()])


@pytest.mark.parametrize(
    ("line", "typed", "reward_model"),
    [
        (PPO, "--reward math code:0.5", False),
        (WPR, "--reward math --reward reward_model:2", True),
        (PPO_APPS, "", False),
        (PPO_APPS, "--reward reward_model", True),
    ],
)
def test_every_script_takes_rewards(line: Any, typed: str, reward_model: bool) -> None:
    config = line.parse([*MODELS.split(), *typed.split()])
    assert config.uses_reward_model == reward_model


def test_parts_of_two_kinds_do_not_share_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REWARDS, "_parts", dict(REWARDS._parts))
    REWARDS.add("mine", "m:f", SinkhornSettings)
    flags = [*MODELS.split(), "--reward", "mine"]
    with pytest.raises(UserError, match="reward 'mine' has settings .* of others: .*epsilon"):
        WPR.parse(flags)
    assert PPO.parse(flags).max_iter == 200


def test_a_reward_of_ones_own_needs_neither_critic_nor_reward_model(tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_text("raise AssertionError('settings run no code of a reward')")
    flags = f"--algorithm grpo --actor_model_name_or_path a --output_dir o --reward {file}:f"
    config = PPO.parse(flags.split())
    assert (config.trains_critic, config.uses_reward_model) == (False, False)
    assert config.critic_model_name_or_path is None


def test_grpo_has_the_names_of_hugging_face() -> None:
    typed = "--learning_rate 2e-5 --gamma 0.3 --lora_dim 4 --zero_stage 3 --bf16 --epsilon_high 0.3"
    config = GRPO.parse(f"{NEAR_TWO} {typed} --num_iterations 2 --save_steps 4".split())
    assert (config.actor_learning_rate, config.kl_ctl, config.gamma) == (2e-5, 0.3, 1.0)
    assert (config.dtype, config.clip_range_high, config.only_optimize_lora) == ("bf16", 0.3, True)
    assert config.enable_zero3_generation_gather
    assert (config.ppo_epochs, config.save_steps) == (2, 2)  # the trainer counts generation batches
    assert config.references() == [("a", 0.5), ("b", 0.5)]
    assert config.checks_answers
    assert config.final_in_output_dir


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--offload", "set --zero_stage\\.$"),
        ("--generation_batch_size 2", "a multiple of --per_device_train_batch_size 4 and a div"),
        ("--reward math reward_model:0.1", "Give the reward model .*: --rm_name FOLDER"),
        ("--rm_name r", "--rm_name: --algorithm grpo has no critic, and no reward model is used"),
    ],
)
def test_grpo_names_flags_that_it_has(typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GRPO.parse(f"{NEAR_TWO} {typed}".split())


def test_grpo_takes_a_reward_model() -> None:
    config = GRPO.parse(f"{NEAR_TWO} --reward math reward_model:0.1 --rm_name r".split())
    assert (config.critic_model_name_or_path, config.trains_critic) == ("r", False)
    assert config.uses_reward_model
    assert config.checks_answers


def test_the_other_name_of_a_part_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("penalty: wasserstein\nepsilon: 0.5\n")
    assert GRPO.parse([str(path), *NEAR_TWO.split()]).penalty == WassersteinSettings(epsilon=0.5)


@pytest.mark.parametrize(
    ("typed", "penalty", "samples", "mixture"),
    [
        ("", 0.1, 0.0, False),
        ("--kl_type fkl", 0.0, 0.1, False),
        ("--kl_type fkl --fkl_estimator per_state", 0.1, 0.0, True),
        ("--penalty wasserstein", 0.1, 0.0, False),
    ],
)
def test_what_the_coefficient_is_of(
    typed: str, penalty: float, samples: float, mixture: bool
) -> None:
    config = GRPO.parse(f"{NEAR_TWO} {typed}".split())
    found = (config.penalty_coefficient, config.sample_coefficient, config.of_mixture)
    assert found == (penalty, samples, mixture)


@pytest.mark.parametrize(
    ("typed", "estimator", "critic", "group"),
    [
        ("", "gae", True, 1),
        ("--algorithm rloo", "rloo", False, 8),
        ("--advantage grpo --num_generations 4", "grpo", False, 4),
        ("--advantage gae", "gae", True, 1),
    ],
)
def test_what_estimates_advantages(typed: str, estimator: str, critic: bool, group: int) -> None:
    config = PPO.parse([*MODELS.split(), *typed.split()])
    found = (config.estimator, config.trains_critic, config.group_size())
    assert found == (estimator, critic, group)


@pytest.mark.parametrize(
    ("typed", "length"), [("--max_steps 6 --num_iterations 2", 3), ("--num_train_epochs 0.5", 50)]
)
def test_how_long_a_run_is(typed: str, length: int) -> None:
    config = GRPO.parse(f"{NEAR_TWO} {typed}".split())
    assert config.planned_iterations(1000, 10) == length


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        (PPO, f"{MODELS} --f_div js --epsilon_high 0.4 --lam 0.9"),
        (WPR, f"{MODELS} --transport sinkhorn_divergence --top_k 4"),
        (GRPO, f"{NEAR_TWO} --kl_type fkl --reference_samples 2 --fp16 --eval_steps 3"),
    ],
)
def test_a_runs_own_settings_can_be_given_back(line: Any, typed: str, tmp_path: Any) -> None:
    config = line.parse(typed.split())
    path = tmp_path / "config.yaml"
    written = {**config.as_flags(), "run": {"given": config.given_flags()}}
    path.write_text(yaml.safe_dump(written))
    again = line.parse([str(path)])
    assert (again, again.given) == (config, config.given)
    assert again.own_flags == config.own_flags


@pytest.mark.parametrize(
    ("line", "typed", "beside", "expected"),
    [
        (
            GRPO,
            NEAR_TWO,
            "--per_device_train_batch_size 2",
            {"per_device_generation_batch_size": 16},
        ),
        (GRPO, NEAR_TWO, "--ref_a c", {"actor_model_name_or_path": "c"}),
        (GRPO, f"{NEAR_TWO} --model m", "--ref_a c", {"actor_model_name_or_path": "m"}),
        (
            PPO,
            "--actor_model_name_or_path a --output_dir o --reward code",
            "--algorithm grpo",
            {"critic_model_name_or_path": None},
        ),
        (WPR, MODELS, "--transport sinkhorn_divergence", {"epsilon": None, "max_iter": 200}),
    ],
)
def test_what_follows_from_flags_follows_from_those_beside_a_runs_settings(
    line: Any, typed: str, beside: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    config = line.parse(typed.split())
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config.as_flags(), "run": {"given": config.given_flags()}}))
    again = line.parse([str(path), *beside.split()])
    assert {name: getattr(again, name) for name in expected} == expected


def test_settings_from_python_are_checked_alike() -> None:
    config = online_config(regularizer="wasserstein", actor_model_name_or_path="a", lam=0.9)
    assert config.penalty == WassersteinSettings()
    assert {"regularizer", "actor_model_name_or_path", "lam"} == config.given
    with pytest.raises(UserError, match="--output_dir FOLDER"):
        config.validate()
    with pytest.raises(UserError, match="--lam: --algorithm grpo has no critic"):
        config.replace(algorithm="grpo", output_dir="o", critic_model_name_or_path="c").validate()
