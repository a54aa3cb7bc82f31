"""`--reward_timeout`: a user's reward that hangs is ended, however it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards import RewardFunction, as_reward, score_responses
from dschat.rewards.build import Rewards, TimedReward

MESSAGE = r"slow did not return within 0.2 seconds \(--reward_timeout\) .* prompt 'a\?'"
FILE = """
import itertools, time

def swallows(prompts, responses, examples):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def holds_the_lock(prompts, responses, examples):
    return sum(itertools.repeat(0, 10**14))  # C code that looks for no signals

def quick(prompts, responses, examples):
    return [1.0] * len(prompts)
"""


def scored(function: Any, seconds: float = 0.2) -> list[float]:
    reward = TimedReward(as_reward(function, "slow"), seconds)
    return score_responses(reward, ["a?", "b?"], ["yes", "no"], [{}, {}])[0]


def sleeps(prompts: list[str], *_: Any) -> list[float]:
    with contextlib.suppress(Exception):  # as many functions do that ask a server
        time.sleep(60)
    return [0.0] * len(prompts)


async def waits(prompts: list[str], *_: Any) -> list[float]:
    await asyncio.sleep(60)
    return [0.0] * len(prompts)


async def blocks(prompts: list[str], *_: Any) -> list[float]:
    return sleeps(prompts)


@pytest.mark.parametrize("function", [sleeps, waits, blocks])
def test_a_function_that_hangs_is_named(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dschat.rewards.time_limit.GRACE", 1.0)
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(UserError, match=MESSAGE):
        scored(function)
    assert time.monotonic() - began < 3
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_one_in_time_is_left_alone(kind: str) -> None:
    async def quick_async(prompts: list[str], *_: Any) -> list[float]:
        await asyncio.sleep(0.01)
        return [1.0, 2.0]

    assert scored((lambda *_: [1.0, 2.0]) if kind == "plain" else quick_async, 5) == [1.0, 2.0]
    time.sleep(0.05)


def test_its_own_time_out_is_its_own() -> None:
    async def fails(*_: Any) -> list[float]:
        raise TimeoutError("of a server")

    with pytest.raises(UserError, match="slow raised TimeoutError"):
        scored(fails, 5)


def test_what_all_ranks_compute_together_has_no_limit() -> None:
    class Together(RewardFunction):
        collective = True  # type: ignore[assignment]

        def __call__(self, prompts: list[str], *_: Any) -> list[float]:  # type: ignore[override]
            time.sleep(0.3)
            return [0.0] * len(prompts)

    assert scored(Together(), 0.05) == [0.0, 0.0]


def test_the_setting_limits_the_users_functions_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    given = [f"{tmp_path}/mine.py:quick", "overlong"]
    settings = SimpleNamespace(
        reward=given,
        reward_timeout=3.0,
        max_answer_seq_len=8,
        overlong_buffer_len=None,
        overlong_penalty_factor=1.0,
    )
    own, builtin = (part.reward for part in Rewards(settings).combined().parts)  # type: ignore[attr-defined]
    assert isinstance(own, TimedReward)
    assert own.seconds == 3
    assert not isinstance(builtin, TimedReward)


@pytest.mark.parametrize("name", ["swallows", "holds_the_lock"])
def test_one_that_cannot_be_interrupted_has_its_process_killed(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    program = f"""
import time
from types import SimpleNamespace
import dschat.rewards.time_limit as limits
from dschat.rewards import score_responses
from dschat.rewards.build import Rewards
limits.GRACE = 0.5
settings = SimpleNamespace(reward=["{tmp_path}/mine.py:quick"], reward_timeout=0.5)
score_responses(Rewards(settings).combined(), ["a?"], ["yes"], [{{}}])
time.sleep(2)  # the clock of a call that has returned does not run on
settings.reward = ["{tmp_path}/mine.py:{name}"]
score_responses(Rewards(settings).combined(), ["a?"], ["yes"], [{{}}])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert f"error: The reward function {name} did not return within 0.5 seconds" in done.stderr
    assert "the first to the prompt 'a?'" in done.stderr


def test_a_rank_without_responses_is_not_timed() -> None:
    reward = TimedReward(as_reward(lambda prompts, *_: [1.0] * len(prompts), "none"), 0.2)
    assert score_responses(reward, [], [], [])[0] == []
