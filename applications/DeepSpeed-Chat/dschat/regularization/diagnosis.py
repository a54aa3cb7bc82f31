"""Does the published penalty see distances, and what does it do to length? In figures and words.

Before the first batch a sample of tokens is looked at; after it the penalty's own numbers are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dschat.regularization.base import mean
from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.nearest_table import NearestTable
from dschat.regularization.ground.used_tokens import sample_of_tokens
from dschat.regularization.transport.token_kernel import NEGLIGIBLE

COUPLED_FROM = 0.01
"""A token whose kernel entries with other tokens add up to less stands alone."""
COUPLED_SHARE = 0.5
"""Below this share of coupled tokens the kernel is numerically diagonal."""
NO_EFFECT = 0.01
"""Distances that change the potential by less, in units of epsilon, have no effect."""
SHARE_OF_REWARD = 0.25
"""What the penalty's constant part makes of a response counts from this share of the reward's
deviation on."""


def diagnose_kernel(metric: GroundMetric, table: NearestTable, epsilon: float) -> dict[str, float]:
    """Figures of a fixed sample of the tokens in use (see ``used_tokens``).

    Returns:
        ``median_nearest_cost``: median of the cost to the nearest other token;
        ``nearest_cost_over_epsilon``: that over epsilon; ``kernel_share_above_1e-16``: share of
        the table's entries exp(-cost / epsilon) above 1e-16; ``coupled_tokens``: share of tokens
        whose entries with other used tokens add up to 0.01 or more: the others stand alone.
    """
    rows = table.rows(sample_of_tokens(metric.used))
    entries = torch.exp(-rows.costs / epsilon)
    sums = (entries * metric.used.to(table.device)[rows.indices.long()]).sum(1)
    return {
        "median_nearest_cost": metric.nearest,
        "nearest_cost_over_epsilon": metric.nearest / epsilon,
        "kernel_share_above_1e-16": mean(entries > NEGLIGIBLE),
        "coupled_tokens": mean(sums >= COUPLED_FROM),
    }


def diagonal_warning(diagnosis: Mapping[str, float], epsilon: float, max_iter: int) -> str | None:
    """What to tell the user if the kernel is numerically diagonal; None if it is not."""
    coupled = diagnosis["coupled_tokens"]
    if coupled >= COUPLED_SHARE:
        return None
    median, ratio = diagnosis["median_nearest_cost"], diagnosis["nearest_cost_over_epsilon"]
    return (
        f"The Wasserstein penalty hardly sees token distances at --epsilon {epsilon:g}: the "
        f"nearest other token lies {median:.3g} away (median), {ratio:.3g} times epsilon, and for "
        f"{1 - coupled:.0%} of the tokens the kernel's entries with all others add up to less than "
        f"{COUPLED_FROM:g}. For them the kernel is the identity: the penalty is epsilon [log pi + "
        f"{max_iter - 1} log(pi / rho)], in effect a reverse KL of {epsilon * (max_iter - 1):.3g} "
        "times the coefficient that also pays for entropy, and its divergence is about 0 however "
        "the policy drifts. For a penalty by distances take sinkhorn_divergence; for a "
        "KL, the KL penalty. A larger --epsilon alone makes distances count, but also what the "
        "potential pays or charges for every token: that is measured at the first iteration."
    )


def sees_no_distances(metrics: Mapping[str, float]) -> bool:
    """Whether the potential of a batch is the one without any distances between tokens.

    The cost of a plan that moves nothing (2e-23, say) then is no divergence.

    Args:
        metrics: of an iteration; those of the penalty begin with ``penalty/``.
    """
    name = "penalty/distance_effect"  # with /ref_k, where there are several references
    effects = [value for key, value in metrics.items() if key.split("/ref_")[0] == name]
    return bool(effects) and max(effects) < NO_EFFECT


def length_report(metrics: Mapping[str, float], coefficient: float) -> str:
    """What the potential's mean pays or charges per token and response, after an iteration.

    A penalty whose mean over the policy is its divergence is never negative and small near the
    reference. The published potential has another mean: a bonus or a charge for each token.

    Args:
        metrics: of the iteration. coefficient: of the penalty.

    Returns:
        In words, beginning with WARNING where it is large beside the reward's deviation.
    """
    token = metrics["penalty/expected_potential"]
    length, deviation = metrics["response_length"], metrics["reward_std"]
    response = -coefficient * token * length
    effect = "pays" if response > 0 else "charges"
    words = (
        f"the Wasserstein potential's mean under the policy is {token:.3g}: it {effect} "
        f"{abs(coefficient * token):.2g} per token, {abs(response):.2g} per response of "
        f"{length:.0f} tokens, whatever is said; the reward's standard deviation over responses is "
        f"{deviation:.2g}."
    )
    if metrics["token_penalty"] == 0:
        words += (
            " (This iteration's penalty is 0: by a rule of the published code, as the policy still "
            "equals the reference. The potential is that of the iterations to come.)"
        )
    if abs(response) <= SHARE_OF_REWARD * deviation:
        return words
    longer = "longer" if response > 0 else "shorter"
    return (
        f"WARNING: {words} Expect {longer} responses for that alone. Take sinkhorn_divergence, "
        "whose mean is its divergence; or a lower coefficient, which weakens the whole penalty. "
        "Watch response_length."
    )
