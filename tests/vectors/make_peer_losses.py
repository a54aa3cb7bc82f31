"""Losses, their gradients and advantages of verl and OpenRLHF, computed by their own functions.

They are not among this project's requirements: both bring Ray and pinned versions of much else. In
an environment of its own that has PyTorch, DeepSpeed and transformers:

    pip install --no-deps verl==0.9.1 openrlhf==0.11.2 tensordict==0.15.3 omegaconf==2.4.0 \\
        antlr4-python3-runtime==4.9.3 hydra-core ray codetiming orjson pyvers attrs jsonschema \\
        jsonschema-specifications referencing rpds-py
    python tests/vectors/make_peer_losses.py    # writes tests/vectors/peer_losses.json
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
TOKENS, RESPONSES = 5, 6


def inputs() -> dict[str, Tensor]:
    """Ratios on both sides of every clip range, one response of a token, no response empty."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -torch.rand(RESPONSES, TOKENS, generator=generator, dtype=torch.float64) - 1
    lengths = torch.tensor([5, 3, 1, 4, 2, 5])
    return {
        "logprobs": old + 0.5 * normal(RESPONSES, 1) + 0.3 * normal(RESPONSES, TOKENS),
        "old_logprobs": old,
        # One per token: their losses take that, though their estimators give a response one.
        "advantages": normal(RESPONSES, TOKENS),
        "mask": (torch.arange(TOKENS) < lengths.unsqueeze(1)).double(),
        "scores": normal(RESPONSES),
        "penalties": 0.1 * normal(RESPONSES, TOKENS),
        "values": normal(RESPONSES, TOKENS),
        "groups": torch.tensor([0, 0, 0, 1, 1, 1]),
    }


def verl_loss(name: str, mode: str, low: float, high: float, dual: float) -> Any:
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    config = ActorConfig(
        strategy="fsdp",
        rollout_n=3,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=dual,
    )
    function = core_algos.get_policy_loss_fn(name)
    return lambda logprobs, x: function(
        x["old_logprobs"], logprobs, x["advantages"], x["mask"], mode, config
    )[0]


def openrlhf_losses() -> ModuleType:
    """Its loss.py, without the rest of its package of models, which needs flash-attn."""
    name = "openrlhf.models"
    spec = importlib.util.find_spec("openrlhf")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = ModuleType(name)
    package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "models")]
    sys.modules[name] = package
    return importlib.import_module(f"{name}.loss")


def openrlhf_loss(kind: str, tokens: bool, low: float, high: float, dual: float | None) -> Any:
    loss = openrlhf_losses().PolicyLoss(low, high, dual, tokens, kind)

    def loss_of(logprobs: Tensor, x: dict[str, Tensor]) -> Tensor:
        given = x["advantages"]
        if kind == "gspo":  # of the whole response: one ratio, one advantage
            given = given[:, :1].expand_as(given)
        return loss(logprobs, x["old_logprobs"], given, x["mask"])[0]

    return loss_of


LOSSES = {
    "verl vanilla token-mean": verl_loss("vanilla", "token-mean", 0.2, 0.28, 3.0),
    "verl vanilla dual clip": verl_loss("vanilla", "token-mean", 0.2, 0.28, 1.5),
    "verl vanilla seq-mean-token-mean": verl_loss("vanilla", "seq-mean-token-mean", 0.2, 0.2, 3.0),
    "verl vanilla seq-mean-token-sum-norm": verl_loss(
        "vanilla", "seq-mean-token-sum-norm", 0.2, 0.2, 3.0
    ),
    "verl gspo": verl_loss("gspo", "seq-mean-token-mean", 0.2, 0.28, 3.0),
    "verl cispo": verl_loss("cispo", "token-mean", 1.0, 0.28, 3.0),
    "verl dppo_tv": verl_loss("dppo_tv", "token-mean", 0.05, 0.05, 20.0),
    "verl dppo_kl": verl_loss("dppo_kl", "token-mean", 0.002, 0.002, 20.0),
    "openrlhf ppo token": openrlhf_loss("ppo", True, 0.2, 0.28, None),
    "openrlhf ppo sequence": openrlhf_loss("ppo", False, 0.2, 0.28, None),
    "openrlhf ppo dual clip": openrlhf_loss("ppo", True, 0.2, 0.28, 1.5),
    "openrlhf gspo": openrlhf_loss("gspo", False, 0.2, 0.28, None),
}


def advantages(x: dict[str, Tensor]) -> dict[str, Tensor]:
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo import core_algos

    mask, groups = x["mask"], x["groups"].numpy()
    last = torch.zeros_like(mask)
    last[torch.arange(RESPONSES), mask.sum(1).long() - 1] = 1
    scores = last * x["scores"].unsqueeze(1)
    rewards = scores + mask * x["penalties"]
    grpo = core_algos.compute_grpo_outcome_advantage
    baseline = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage
    config = AlgoConfig(gamma=0.9)
    return {
        "grpo": grpo(scores, mask, groups, norm_adv_by_std_in_grpo=False)[0],
        "grpo scaled": grpo(scores, mask, groups)[0],
        "rloo": core_algos.compute_rloo_outcome_advantage(scores, mask, groups)[0],
        "reinforce++": core_algos.compute_reinforce_plus_plus_outcome_advantage(
            rewards, mask, config=config
        )[0],
        "reinforce++_baseline": baseline(scores, mask, groups)[0],
        "gae": core_algos.compute_gae_advantage_return(rewards, x["values"], mask, 0.9, 0.8)[0],
        "gae returns": core_algos.compute_gae_advantage_return(
            rewards, x["values"], mask, 0.9, 0.8
        )[1],
    }


def main() -> None:
    x = inputs()
    losses = {}
    for name, loss_of in LOSSES.items():
        logprobs = x["logprobs"].clone().requires_grad_()
        loss = loss_of(logprobs, x)
        gradient = torch.autograd.grad(loss, logprobs)[0]
        losses[name] = {"loss": float(loss.detach()), "gradient": gradient.tolist()}
    vectors = {
        "versions": {name: version(name) for name in ("verl", "openrlhf")},
        "inputs": {name: value.tolist() for name, value in x.items()},
        "losses": losses,
        "advantages": {name: value.tolist() for name, value in advantages(x).items()},
    }
    (HERE / "peer_losses.json").write_text(json.dumps(vectors) + "\n")


if __name__ == "__main__":
    main()
