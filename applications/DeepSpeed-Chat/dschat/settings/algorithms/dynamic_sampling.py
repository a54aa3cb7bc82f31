"""The flags of DAPO's dynamic sampling: see docs/losses.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.command_line import Settings, flag, require


@dataclass
class DynamicSamplingFlags(Settings):
    """Which groups an iteration learns from."""

    dynamic_sampling: bool = flag(
        False,
        "Leave out groups whose rewards are all equal, and sample further prompts until the "
        "iteration holds as many others (DAPO). The number of iterations stays as planned; prompts "
        "are used up faster.",
        group="Algorithm",
    )
    dynamic_sampling_tries: int = flag(
        10,
        "At most this many times the iteration's prompts are sampled; after that it is filled up "
        "with groups of equal rewards.",
    )


def check_dynamic_sampling(config: Any) -> None:
    """Refuse what does not fit; raises `UserError`.

    Args:
        config: an `OnlineConfig`.
    """
    flag = config.flag
    asked, tries = flag("dynamic_sampling"), config.dynamic_sampling_tries
    on = config.dynamic_sampling
    for holds, message in (
        (tries >= 1, f"{flag('dynamic_sampling_tries')} {tries}: expected 1 or more."),
        (
            on or "dynamic_sampling_tries" not in config.given,
            f"{flag('dynamic_sampling_tries')} needs {asked}. Add it, or remove the flag.",
        ),
        (
            not on or config.group_size() > 1,
            f"{asked} compares the responses to one prompt: give {flag('num_generations')} of 2 or "
            "more.",
        ),
        (
            not (on and config.from_samples),
            f"{asked} chooses prompts by their responses, which the references' samples must not "
            "depend on: use --fkl_estimator per_state.",
        ),
        (
            not (on and config.reuse_rollout_logprobs),
            f"{asked} moves responses between ranks, without the states of sampling. Remove "
            f"{flag('reuse_rollout_logprobs')}.",
        ),
    ):
        require(bool(holds), message)
