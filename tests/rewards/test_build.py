"""`--reward`: names and files, weights, sums, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards import as_reward, score_responses
from dschat.rewards.build import Rewards
from dschat.settings.registry import REWARDS
from dschat.settings.rewards import RewardSpec, names_reward, parse_rewards

PROMPTS, RESPONSES, ROWS = ["a?", "b?"], ["yes", "no way"], [{"n": 1}, {"n": 2}]
FILE = """
def length(prompts, responses, examples):
    return [len(response) for response in responses]

async def only_second(prompts, responses, examples):
    return [None if row["n"] == 1 else 10.0 for row in examples]

def wrong(prompts, responses, examples):
    raise KeyError("no")

class Counting:
    def __init__(self):
        self.calls = 0
    def __call__(self, prompts, responses, examples):
        self.calls += 1
        return [self.calls] * len(prompts)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my rewards.py"
    path.write_text(FILE)
    return str(path)


def scores(*given: str, model: Any = None) -> tuple[list[float], dict[str, list[float]]]:
    rewards = Rewards(SimpleNamespace(reward=list(given)))
    return score_responses(rewards.combined(model), PROMPTS, RESPONSES, ROWS)


def test_a_part_may_become_collective_after_the_rewards_are_built(file: str) -> None:
    model = SimpleNamespace(collective=False)  # as the critic is, before ZeRO 3 partitions it
    given = [f"{file}:length", "reward_model"]
    reward = Rewards(SimpleNamespace(reward=given)).combined(model)  # type: ignore[arg-type]
    assert not reward.collective
    model.collective = True
    assert reward.collective


def test_one_reward_is_itself_and_several_are_summed_by_weight(file: str) -> None:
    assert scores(f"{file}:length") == ([3.0, 6.0], {})
    assert scores(f"{file}:Counting") == ([1.0, 1.0], {})
    assert scores(f"{file}:length:0.5") == ([1.5, 3.0], {"length": [3.0, 6.0]})
    model = as_reward(lambda *_: [1.0, -1.0], "the model")
    assert scores(
        f"{file}:length:0.5", f"{file}:only_second:-1", "reward_model:2", model=model
    ) == (
        [3.5, -9.0],
        {"length": [3.0, 6.0], "only_second": [None, 10.0], "reward_model": [1.0, -1.0]},
    )


def test_a_part_tells_of_itself_under_its_name_and_nan_is_left_to_the_trainer(file: str) -> None:
    class Explained:
        def __call__(self, *_: Any) -> list[float]:
            raise AssertionError

        def explained(self, *_: Any) -> tuple[list[float], dict[str, list[float]]]:
            return [math.nan, 1.0], {"format": [0.0, 1.0]}

    rewards = Rewards(SimpleNamespace(reward=["reward_model:2", f"{file}:length"]))
    assert rewards.need_reward_model
    both = rewards.combined(as_reward(Explained()))
    found, parts = score_responses(both, PROMPTS, RESPONSES, ROWS, finite=False)
    assert math.isnan(found[0])
    assert found[1] == 8.0
    assert parts["reward_model/format"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("length:much", "the weight must be a number"),
        ("length:nan", "the weight must be a number"),
        ("", "expected the name of a function"),
        ("lenght", "the file has no lenght; it has length, only_second"),
    ],
)
def test_a_function_that_is_not_there_is_refused(file: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rewards(SimpleNamespace(reward=[f"{file}:{name}"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["not_there.py:f"], "there is no file not_there.py"),
        (["rewards.py"], "which function of the file"),
        (["reward_modle"], "Did you mean 'reward_model'"),
        (["reward_model", "reward_model:2"], "names 'reward_model' 2 times"),
        ([], "is empty"),
    ],
)
def test_what_names_no_reward_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_rewards(given)


def test_a_prompt_to_which_no_reward_applies_is_named(file: str) -> None:
    with pytest.raises(UserError, match=r"None of the rewards \(only_second\) .*'a\?'"):
        scores(f"{file}:only_second:2")
    with pytest.raises(UserError, match=r"only_second returned None.*'a\?'"):
        scores(f"{file}:only_second")


def test_the_one_that_raises_is_named(file: str) -> None:
    with pytest.raises(UserError, match=r"function wrong raised KeyError\('no'\).*'a\?'"):
        scores(f"{file}:length", f"{file}:wrong")


def test_a_plugins_reward_is_built_from_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REWARDS, "_parts", dict(REWARDS._parts))

    @REWARDS.register("bonus")
    def bonus(settings: Any) -> Any:
        return lambda prompts, *_: [settings.bonus_size] * len(prompts)

    rewards = Rewards(SimpleNamespace(reward=["bonus"], bonus_size=4.0))
    found = score_responses(rewards.combined(), PROMPTS, RESPONSES, ROWS)
    assert found == ([4.0, 4.0], {})
    assert rewards.combined().name == "bonus"


def test_without_the_flag_the_reward_model_scores() -> None:
    assert names_reward(None, "reward_model")
    assert names_reward(["reward_model:0.5"], "reward_model")
    assert not names_reward(["code"], "reward_model")


def test_a_function_may_have_the_name_of_a_built_in_reward(file: str) -> None:
    Path(file).write_text(FILE.replace("length", "math"))
    assert not names_reward([f"{file}:math"], "math")
    assert scores(f"{file}:math") == ([3.0, 6.0], {})
    assert parse_rewards(["reward_model:0.5"]) == [RewardSpec("reward_model", 0.5)]


def test_a_file_imports_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "my_neighbour_of_rewards.py").write_text("WORTH = 7.0")
    path = tmp_path / "importing.py"
    path.write_text(
        "from my_neighbour_of_rewards import WORTH\ndef f(p, r, e):\n    return [WORTH] * len(p)\n"
    )
    assert scores(f"{path}:f")[0] == [7.0, 7.0]
