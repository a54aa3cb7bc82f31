"""Is iteration beta? The published Wasserstein penalty against KL with an entropy bonus.

    python benchmarks/wpr_limit.py
    python benchmarks/frontier.py --plan benchmarks/frontier_iterations.yaml      # training runs

Where no kernel entry but the diagonal's is left, n iterations of the published penalty give
f = epsilon [log pi + (n - 1) log(pi / rho)]. As a token's reward this has the policy gradient of
epsilon E[sum_t (n - 1) KL_t - H_t]. Printed: how far f and the expected gradient of the trainer's
loss are from that, in the enumerated world of `estimators.py` with four far tokens, float64.

As `--plugin benchmarks/wpr_limit.py` it is the penalty `wpr_limit`, the formula itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from dschat.regularization import Penalty, PolicyRegularizer, TruncatedWasserstein
from dschat.settings.command_line import flag
from dschat.settings.parts import REGULARIZERS
from torch import Tensor


@dataclass
class WPRLimitSettings:
    """The flags."""

    limit_epsilon: float = flag(0.01, "As --epsilon of the published penalty.")
    limit_iterations: int = flag(10, "As its --max_iter.")


@REGULARIZERS.register("wpr_limit", WPRLimitSettings, "the published penalty without distances")
class WPRLimit(PolicyRegularizer):
    """phi = epsilon [log pi + (n - 1) log(pi / rho)]; 0 if all logits are the reference's.

    The last is the published rule: without it the two would part in the first iteration.
    """

    name = "wpr_limit"

    def __init__(self, limit_epsilon: float = 0.01, limit_iterations: int = 10) -> None:
        self.epsilon, self.iterations = limit_epsilon, limit_iterations

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Logits [N, V] of both, sampled tokens [N] -> phi [N] and KL [N], both times epsilon."""
        assert isinstance(reference_logits, Tensor)
        log_pi, log_rho = (x.log_softmax(1) for x in (policy_logits, reference_logits))
        kl = (log_pi.exp() * (log_pi - log_rho)).sum(1).clamp(min=0)
        phi = self.epsilon * (log_pi + (self.iterations - 1) * (log_pi - log_rho))
        token = phi.gather(1, actions.unsqueeze(1))[:, 0]
        if torch.equal(policy_logits, reference_logits):
            token = torch.zeros_like(token)
        return Penalty(token, self.epsilon * (self.iterations - 1) * kl, {})


def compare(iterations: int, drift: float, seed: int) -> tuple[float, float, float]:
    """(largest |f - formula| over the largest |f|, error of the gradient, share of entropy in it).

    The gradient's error is its distance over its size; the share is the size of the entropy's
    gradient over that of the whole.
    """
    from estimators import TOKENS, in_reward, make_world, per_state, visits
    from estimators import gradient_of as gradient

    world = make_world(seed, drift)
    far = 10 * torch.eye(TOKENS)
    published = TruncatedWasserstein(far, cost_dim=3, top_k=TOKENS, max_iter=iterations)
    limit = WPRLimit(0.01, iterations)
    rows = torch.arange(len(world.old)).repeat_interleave(TOKENS)
    given = world.old[rows], world.reference[rows], torch.arange(TOKENS).repeat(len(world.old))
    f, formula = published(*given).token, limit(*given).token
    found = sum(p * gradient(loss, world) for p, _, loss in in_reward(published)(world))
    log_p = world.policy.log_softmax(1)
    met = visits(world.policy)
    entropy = -(met * (log_p.exp() * log_p).sum(1)).sum()
    whole = 0.01 * ((iterations - 1) * (met * per_state(world, False)).sum() - entropy)
    wanted = gradient(whole, world)
    of_entropy = gradient(0.01 * entropy, world)
    return (
        float((f - formula).abs().max() / f.abs().max()),
        float((found - wanted).norm() / wanted.norm()),
        float(of_entropy.norm() / wanted.norm()),
    )


def main() -> None:
    """Print the table."""
    print("| iterations | drift | f: error | gradient: error | entropy's share |")
    print("|---|---|---|---|---|")
    for iterations in (5, 10, 30):
        for drift in (0.1, 0.3, 1.0):
            f, gradient, share = compare(iterations, drift, seed=0)
            print(f"| {iterations} | {drift:g} | {f:.1e} | {gradient:.1e} | {share:.2f} |")


if __name__ == "__main__":
    main()
