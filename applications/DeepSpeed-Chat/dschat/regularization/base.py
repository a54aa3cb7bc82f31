"""What every policy regulariser shares: its result, its interface and the checks of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

LOG_PROBABILITY_FLOOR = -1e4
"""Log-probabilities (nats) below this count as this, so that impossible tokens stay finite."""


@dataclass(frozen=True)
class Candidates:
    """Tokens of N positions that an update looks at again, see `dschat.regularization.sampled_kl`.

    Attributes:
        tokens: [N, k] int32. reference_logprobs: [N, k] float32, of those tokens.
    """

    tokens: Tensor
    reference_logprobs: Tensor


@dataclass(frozen=True)
class Penalty:
    """Result of a regulariser on N response positions.

    Attributes:
        token: [N], the penalty of the sampled token; the reward gets ``-coefficient * token``
            (clipped to the regulariser's ``reward_clip`` where it has one).
        divergence: [N], the divergence at each position; never NaN or infinite.
        metrics: diagnostics by name. Each is a mean over these N positions, so chunks of a batch
            are combined by the mean of their metrics weighted with N. Empty chunks give zeros.
        candidates: what a term of the loss needs; None: there is none.

    Both tensors are float32, or float64 where the logits were float64 (kept for tests against
    references computed in double precision).
    """

    token: Tensor
    divergence: Tensor
    metrics: dict[str, float]
    candidates: Candidates | None = None


class PolicyRegularizer(Protocol):
    """A penalty that keeps a policy near one reference or several of them.

    Call it with ``policy_logits`` [N, V] divided by the sampling temperature, ``reference_logits``
    [N, V] treated alike (or a sequence of K of them for several references) and the sampled tokens
    ``actions`` [N] int64, where N counts response positions.

    Only the call is required. What else a regulariser may offer has a default here: inherit from
    this class, or pass an object that has some of these names through ``with_defaults``.

    Attributes:
        name: for logs.
        reward_clip: bound of the per-token reward ``-coefficient * token``; None: unbounded.
        uses_support: ``collect_support`` is called on all chunks of a batch, and the result of all
            ranks is passed to each call as ``support``.
        needs_all_references: each call gets the logits of all references together, and
            ``prefix_logprobs`` [N, K], see ``MixtureReference``.
    """

    name: str
    reward_clip: float | None = None
    uses_support: bool = False
    needs_all_references: bool = False

    def __call__(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        actions: Tensor,
    ) -> Penalty: ...

    def collect_support(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        token_ids: Tensor,
        support: Tensor | None = None,
    ) -> Tensor:
        """Token ids [S] that take part in this chunk, joined with those of earlier chunks."""
        return token_ids.flatten()[:0] if support is None else support

    def diagnose(self) -> dict[str, float]:
        """Figures of the regulariser on this model by name, for the log; empty: none."""
        return {}

    def warning(self) -> str | None:
        """What to tell the user before training; None: nothing."""
        return None

    def first_report(self, metrics: Mapping[str, float], coefficient: float) -> str | None:
        """What to tell the user after the first iteration, from its metrics; None: nothing."""
        return None


OPTIONAL = (
    "name",
    "reward_clip",
    "uses_support",
    "needs_all_references",
    "collect_support",
    "diagnose",
    "warning",
    "first_report",
)


class _WithDefaults(PolicyRegularizer):
    """Any callable as a regulariser, with the defaults for what it does not offer."""

    def __init__(self, regularizer: Any, name: str | None) -> None:
        self.regularizer = regularizer
        self.name = str(name or getattr(regularizer, "__name__", type(regularizer).__name__))
        self.uses_support = hasattr(regularizer, "collect_support")
        for name in OPTIONAL:
            if hasattr(regularizer, name):
                setattr(self, name, getattr(regularizer, name))

    def __call__(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        actions: Tensor,
        **options: Any,
    ) -> Penalty:
        penalty: Penalty = self.regularizer(policy_logits, reference_logits, actions, **options)
        return penalty


def with_defaults(regularizer: Any, name: str | None = None) -> PolicyRegularizer:
    """The regulariser, in a wrapper where it does not inherit from ``PolicyRegularizer``.

    Args:
        name: where it has none; None: that of its class or function.
    """
    if PolicyRegularizer in type(regularizer).__mro__:
        inherits: PolicyRegularizer = regularizer
        if not hasattr(inherits, "name"):
            inherits.name = name or type(inherits).__name__
        return inherits
    return _WithDefaults(regularizer, name)


class NoPenalty(PolicyRegularizer):
    """Nothing keeps the policy near anything, and no reference is asked (`--regularizer none`).

    What bounds an update is the policy loss alone (its clipping or trust region).
    """

    name = "none"

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Not called in a run: there is nothing to measure."""
        raise ValueError("given logits for no penalty, expected a regulariser with a reference")


def single_reference(
    policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
) -> Tensor:
    """Check the inputs of a regulariser that knows one reference, and return that reference.

    Raises:
        ValueError: if there are several references, or shapes, dtypes or token ids do not fit.
    """
    if not isinstance(reference_logits, Tensor):
        raise ValueError(
            f"given {len(reference_logits)} references, expected one tensor of logits [N, V]: "
            "wrap the regulariser in MultiReference to use several"
        )
    if policy_logits.dim() != 2:
        raise ValueError(
            f"given policy_logits of shape {tuple(policy_logits.shape)}, expected [N, V]: "
            "select the response positions of the batch first"
        )
    if policy_logits.shape != reference_logits.shape:
        raise ValueError(
            f"given policy_logits {tuple(policy_logits.shape)} and reference_logits "
            f"{tuple(reference_logits.shape)}, expected the same [N, V]: use models that share a "
            "vocabulary, and cut padded logits to the shared size"
        )
    check_actions(actions, positions=policy_logits.shape[0], vocabulary=policy_logits.shape[1])
    return reference_logits


def check_actions(actions: Tensor, positions: int, vocabulary: int) -> None:
    """Raise ValueError unless ``actions`` is [positions] int64 with ids below ``vocabulary``."""
    if actions.dtype != torch.int64 or actions.shape != (positions,):
        raise ValueError(
            f"given actions {tuple(actions.shape)} of {actions.dtype}, expected ({positions},) of "
            "torch.int64: pass one sampled token id per position"
        )
    if positions and (int(actions.min()) < 0 or int(actions.max()) >= vocabulary):
        raise ValueError(
            f"given token ids from {int(actions.min())} to {int(actions.max())}, expected 0 to "
            f"{vocabulary - 1}: the tokenizer and the model's vocabulary differ"
        )


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension in float32 (float64 stays), floored, so always finite.

    Args:
        logits: [..., V] of any floating dtype; -inf marks impossible tokens.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=-1, dtype=dtype).clamp(min=LOG_PROBABILITY_FLOOR)


def at_actions(values: Tensor, actions: Tensor) -> Tensor:
    """Entries of ``values`` [N, V] at ``actions`` [N]; returns [N]."""
    return values.gather(1, actions.unsqueeze(1)).squeeze(1)


def mean(values: Tensor) -> float:
    """Mean as a Python float; 0 for an empty tensor, so that metrics stay finite."""
    return float(values.detach().double().mean()) if values.numel() else 0.0


def checked_penalty(token: Tensor, divergence: Tensor, metrics: dict[str, float]) -> Penalty:
    """Build a Penalty, refusing NaN and infinity: with finite formulas they come from the logits.

    Raises:
        ValueError: if any entry is not finite.
    """
    bad = ~(torch.isfinite(token) & torch.isfinite(divergence))
    if bool(bad.any()):
        raise ValueError(
            f"the penalty is not finite at {int(bad.sum())} of {bad.numel()} positions, expected "
            "logits without NaN or +inf and with a possible token in each row: check that the "
            "policy has not diverged (learning rate, dtype)"
        )
    return Penalty(token, divergence, metrics)
