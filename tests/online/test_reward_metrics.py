"""Each reward's mean, spread and share under its name, over the responses of all ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dschat.online.metrics import _of_rewards
from dschat.rewards import RewardFunction, as_reward
from dschat.rewards.build import OnlyReward, Rewards, Weighted, WeightedRewards
from dschat.scoring.scorer import reward_rollouts
from dschat.settings.rewards import metric_names, parse_rewards
from launch import TRAINING, run_script

SCRIPT = TRAINING / "step3_rlhf_finetuning" / "main.py"
FILE = """
def row_number(prompts, responses, examples):
    # 0, 1, 2, ...; does not apply to rows 3 and up
    return [float(e["n"]) if e["n"] < 3 else None for e in examples]

def constant(prompts, responses, examples):
    return [100.0] * len(prompts)
"""


def rollouts(*numbers: list[float | None]) -> Any:
    """One micro-batch of as many responses for each list, whose rows hold the rewards."""
    return [
        SimpleNamespace(
            prompts=["p"] * len(n), responses=["r"] * len(n), examples=[{"x": x} for x in n]
        )
        for n in numbers
    ]


def said(prompts: list[str], responses: list[str], examples: list[Any]) -> list[float | None]:
    return [e["x"] for e in examples]


def metrics(reward: RewardFunction, *ranks: Any) -> dict[str, float]:
    """Of the sums of all ranks, added up."""
    sums = [reward_rollouts(reward, rank).sums for rank in ranks]
    return _of_rewards({name: sum(s.get(name, 0.0) for s in sums) for name in sums[0]})


def test_mean_spread_and_share_by_hand() -> None:
    """1, 2, 6: mean 3, mean of squares 41 / 3, so variance 14 / 3; three of four apply."""
    zero = as_reward(lambda prompts, *_: [-1.0] * len(prompts))
    both = WeightedRewards([Weighted("said", 0.5, as_reward(said)), Weighted("minus", 2.0, zero)])
    ranks = rollouts([1.0, None], [2.0]), rollouts([6.0])
    assert metrics(both, *ranks) == pytest.approx(
        {
            "reward/said": 3.0,
            "reward/said_std": math.sqrt(14 / 3),
            "reward/said_applies": 0.75,
            "reward/minus": -1.0,
            "reward/minus_std": 0.0,
            "reward/minus_applies": 1.0,
        }
    )
    # Not the mean of the ranks' means, which are 1.5 and 6.
    assert metrics(both, *ranks)["reward/said"] != pytest.approx(3.75)


def test_a_reward_that_applies_nowhere_has_a_share_and_no_mean() -> None:
    zero = as_reward(lambda prompts, *_: [0.0] * len(prompts))
    both = WeightedRewards([Weighted("said", 1, as_reward(said)), Weighted("zero", 1, zero)])
    found = metrics(both, rollouts([None, None]))
    assert found["reward/said_applies"] == 0
    assert not {"reward/said", "reward/said_std"} & found.keys()


def test_a_single_reward_of_weight_1_is_logged_and_keeps_its_parts() -> None:
    class Mine(RewardFunction):
        def __call__(self, prompts: list[str], *_: Any) -> list[float]:  # type: ignore[override]
            raise AssertionError

        def explained(self, prompts: list[str], *_: Any) -> Any:  # type: ignore[override]
            return [2.0, 4.0], {"half": [1.0, 2.0], "mine_std": [7.0, 7.0]}

    reward = OnlyReward(Mine(), "mine")
    assert metrics(reward, rollouts([0.0, 0.0])) == {
        "reward/mine": 3.0,
        "reward/mine_std": 1.0,
        "reward/mine_applies": 1.0,
        "reward/half": 1.5,
        "reward/mine/mine_std": 7.0,  # not in the place of the reward's own spread
    }


def test_names_are_told_apart_and_are_clean(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "my b.py", "c/a.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(FILE)
    given = ["a.py:f", "my b.py:f", "c/a.py:f:0.5", "a.py:f_std", "a.py:g", "a.py:g_std", "math"]
    assert metric_names(parse_rewards(given)) == [
        *("a.f", "my_b.f", "a.f_2", "f_std", "g", "g_std_2", "math")
    ]
    two = Rewards(SimpleNamespace(reward=["a.py:constant", "c/a.py:constant"])).combined()
    assert two.names == ("a.constant", "a.constant_2")


@pytest.mark.slow
def test_two_ranks_log_what_is_computed_by_hand(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Rows 0 to 7, one group of 2 each; 0, 1, 2 apply: mean 1, variance 2/3, share 3/8."""
    (tmp_path / "mine.py").write_text(FILE)
    rows = [json.dumps({"prompt": f"Count to {n}.", "n": n}) for n in range(8)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    for ranks in (1, 2):
        arguments = [
            *("--algorithm", "grpo", "--actor_model_name_or_path", tiny_model_dir),
            *("--data_path", tmp_path / "prompts.jsonl", "--data_split", "0,0,1"),
            *("--reward", f"{tmp_path}/mine.py:row_number", f"{tmp_path}/mine.py:constant:0.01"),
            *("--num_generations", "2", "--per_device_generation_batch_size", 16 // ranks),
            *("--per_device_training_batch_size", 16 // ranks, "--max_answer_seq_len", "4"),
            *("--num_train_epochs", "1", "--output_dir", tmp_path / f"run{ranks}"),
        ]
        result = run_script(SCRIPT, [str(a) for a in arguments], ranks)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        (row,) = map(json.loads, (tmp_path / f"run{ranks}/metrics.jsonl").open())
        found = {k: v for k, v in row.items() if k.startswith("reward/")}
        assert found == pytest.approx(
            {
                "reward/row_number": 1.0,
                "reward/row_number_std": math.sqrt(2 / 3),
                "reward/row_number_applies": 3 / 8,
                "reward/constant": 100.0,
                "reward/constant_std": 0.0,
                "reward/constant_applies": 1.0,
            }
        )
