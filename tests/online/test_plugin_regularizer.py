"""A regulariser of a user's own file, used by its name and with its own flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.online.run import build_trainer
from dschat.online.setup import start
from dschat.settings.online_scripts import PPO
from dschat.settings.registry import REGULARIZERS
from online_fixtures import command_line, online_settings

MINE = '''
from dataclasses import dataclass

import torch
from dschat.regularization import Penalty
from dschat.settings.command_line import flag, require
from dschat.settings.registry import REGULARIZERS


@dataclass
class NearestSettings:
    """The flags."""

    bandwidth: float = flag(1.0, "Width of the kernel.")

    def validate(self):
        require(self.bandwidth > 0, f"--bandwidth {self.bandwidth}: expected a number above 0.")


@REGULARIZERS.register("nearest", NearestSettings)
class Nearest:
    """Squared log-ratio, weighted by how near a token's embedding is to the end token's."""

    def __init__(self, token_embeddings, eos_token_id, bandwidth):
        end = token_embeddings[list(eos_token_id)[:1]]
        self.weights = torch.exp(-torch.cdist(token_embeddings, end)[:, 0] / bandwidth)

    def __call__(self, policy_logits, reference_logits, actions):
        ratio = (policy_logits.log_softmax(-1) - reference_logits.log_softmax(-1)).gather(
            1, actions[:, None]
        )[:, 0]
        token = self.weights[actions] * ratio.square()
        return Penalty(token, token, {"ratio": float(ratio.mean())})

    def diagnose(self):
        return {"weights": float(self.weights.mean())}
'''


@pytest.fixture
def command(
    tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setattr(REGULARIZERS, "_parts", dict(REGULARIZERS._parts))
    (tmp_path / "mine.py").write_text(MINE)
    flags = online_settings(tmp_path, tiny_model_dir, tiny_reward_dir)
    plugin = {"plugin": tmp_path / "mine.py", "regularizer": "nearest"}
    return lambda **more: command_line(**flags, **plugin, **more)


def test_a_run_with_a_penalty_of_ones_own(command: Any, tmp_path: Path, capsys: Any) -> None:
    config = PPO.parse(command(bandwidth=0.5, kl_ctl=0.2))
    assert (config.penalty.bandwidth, config.kl_ctl) == (0.5, 0.2)
    trainer = build_trainer(config, *start(config))
    first, second = (trainer.run_iteration(trainer.prompts[8 * i : 8 * i + 8]) for i in range(2))
    assert first["divergence"] == 0 < second["divergence"]
    assert second["penalty/ratio"] != 0
    assert "nearest: weights " in capsys.readouterr().out
    written = (tmp_path / "out" / "config.yaml").read_text()
    assert "regularizer: nearest" in written
    assert "bandwidth: 0.5" in written
    assert "penalty: nearest" in written


def test_its_flags_are_checked_by_its_own_settings(command: Any) -> None:
    with pytest.raises(UserError, match="--bandwidth -1.0: expected a number above 0"):
        PPO.parse(command(bandwidth=-1))
    with pytest.raises(UserError, match="--f_div belongs to --regularizer f_divergence"):
        PPO.parse(command(f_div="js"))
