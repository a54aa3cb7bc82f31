"""The flags of what is optimised beside the penalty: see docs/losses.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.algorithms.presets import PRESETS
from dschat.settings.command_line import Settings, flag, require
from dschat.settings.registry import ADVANTAGES, POLICY_LOSSES

NORMALIZATIONS = ["token", "sequence", "constant"]


@dataclass
class LossFlags(Settings):
    """Normalisation, clipping of values, truncated responses, and presets of all this."""

    preset: str | None = flag(
        None,
        "Defaults of these flags by the name of a peer's trainer or a paper (docs/losses.md); "
        "other flags override it.",
        registry=PRESETS,
        group="Algorithm",
    )
    loss_normalization: str | None = flag(
        None,
        "What the sum of the tokens' losses is divided by. token: the tokens of the global batch. "
        "sequence: a response's tokens, and the responses. constant: the responses times "
        "--loss_constant (Dr. GRPO). Unset: token; sequence for --policy_loss gspo.",
        choices=NORMALIZATIONS,
    )
    loss_constant: int | None = flag(
        None, "See --loss_normalization constant; unset: max_answer_seq_len."
    )
    clip_range_value: float = flag(
        0.2, "The critic's values are clipped to those at sampling plus or minus this (ppo)."
    )
    whiten_advantages: bool = flag(
        False,
        "Take the mean off the advantages and divide them by the standard deviation, over the "
        "response tokens of the iteration, all ranks together.",
    )
    missing_eos_penalty: float | None = flag(
        None,
        "Taken off the (clipped) score of a response that did not end by itself; unset: nothing.",
    )
    mask_truncated: bool = flag(
        False,
        "Responses that did not end by themselves count neither in the losses nor in the number of "
        "tokens or responses that these are divided by (loss_normalization constant: which is "
        "constant). Baselines see their rewards all the same.",
    )


def fill_in_loss(config: Any) -> None:
    """Fill in what follows from the policy loss, and refuse what does not fit.

    Args:
        config: an `OnlineConfig`.

    Raises:
        UserError: says which flag, and what was expected.
    """
    flag, loss = config.flag, POLICY_LOSSES[config.policy_loss].settings
    estimator = ADVANTAGES[config.estimator].settings
    if config.loss_normalization is None:
        config.loss_normalization = getattr(loss, "normalization", "token")
    constant = config.loss_normalization == "constant"
    penalty = config.missing_eos_penalty
    whitens = getattr(estimator, "whitens", False)
    unpaid = "regularizer" in config.given and "kl_ctl" not in config.given and not config.kl_ctl
    for holds, message in (
        (
            config.preset is None or not unpaid,
            f"{flag('preset')} {config.preset} sets {flag('kl_ctl')} 0, with which "
            f"{flag('regularizer')} {config.regularizer} is measured and nothing more. Give "
            f"{flag('kl_ctl')}: the coefficient, or 0 to measure it.",
        ),
        (
            constant or "loss_constant" not in config.given,
            f"{flag('loss_constant')} belongs to {flag('loss_normalization')} constant. Remove it.",
        ),
        (
            config.loss_constant is None or config.loss_constant >= 1,
            f"{flag('loss_constant')} {config.loss_constant}: expected 1 or more.",
        ),
        (
            config.clip_range_value > 0,
            f"{flag('clip_range_value')} {config.clip_range_value}: expected a number above 0.",
        ),
        (
            penalty is None or penalty > 0,
            f"{flag('missing_eos_penalty')} {penalty}: expected a number above 0; it is taken off.",
        ),
        (
            not (whitens and config.whiten_advantages),
            f"{flag('whiten_advantages')}: {flag('advantage')} {config.estimator} does so already. "
            "Remove the flag.",
        ),
        (
            not ((whitens or config.whiten_advantages) and config.from_samples),
            "Advantages that are divided by their standard deviation go with a penalty in the "
            "reward, not with the references' samples: use --fkl_estimator per_state.",
        ),
        (
            not (config.mask_truncated and config.from_samples),
            f"{flag('mask_truncated')} would bias the references' samples, which go with all "
            "responses: use --fkl_estimator per_state.",
        ),
    ):
        require(bool(holds), message)
    if constant and config.loss_constant is None:
        config.loss_constant = config.max_answer_seq_len
