"""Frozen policies to stay near, and where they are while nobody asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from dschat.models.policy import PolicyModel


class FrozenPolicy(Protocol):
    """Something that can be asked for a policy on the device for a while."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens that it gives a logit."""
        ...

    def limit_vocabulary(self, size: int) -> None:
        """Take the first `size` tokens only as possible, from now on."""
        ...

    def on_device(self) -> AbstractContextManager[PolicyModel]:
        """The policy on its device, frozen and in eval mode, for one scoring."""
        ...


class Reference:
    """A frozen policy that stays in memory.

    Args:
        policy: its `PolicyModel` (or an engine around one).
        device: where it is evaluated.
        resting_device: where it waits in between (CPU to free GPU memory); None: it stays.
    """

    def __init__(
        self, policy: PolicyModel, device: torch.device, resting_device: torch.device | None = None
    ) -> None:
        self.policy = frozen(policy)
        self.device = device
        self.resting_device = resting_device
        self.policy.to(resting_device or device)

    @property
    def vocabulary_size(self) -> int:
        """Tokens that it gives a logit."""
        return self.policy.output_layer.vocabulary_size

    def limit_vocabulary(self, size: int) -> None:
        """Take the first `size` tokens only as possible, from now on."""
        self.policy.limit_vocabulary(size)

    @contextmanager
    def on_device(self) -> Iterator[PolicyModel]:
        """The policy on its device, for one scoring."""
        if self.resting_device is None:
            yield self.policy
            return
        self.policy.to(self.device)
        try:
            yield self.policy
        finally:
            self.policy.to(self.resting_device)


class ReferenceOnDisk:
    """A frozen policy that is loaded for every scoring and freed after it.

    Any number of them takes the memory of one.

    Args:
        load: makes the policy.
        device: where it is evaluated.
        vocabulary_size: tokens that it gives a logit.
    """

    def __init__(
        self, load: Callable[[], PolicyModel], device: torch.device, vocabulary_size: int
    ) -> None:
        self.load, self.device = load, device
        self.vocabulary_size = vocabulary_size

    def limit_vocabulary(self, size: int) -> None:
        """Take the first `size` tokens only as possible, from now on."""
        self.vocabulary_size = size

    @contextmanager
    def on_device(self) -> Iterator[PolicyModel]:
        """The policy on its device, for one scoring."""
        policy = frozen(self.load()).to(self.device)
        policy.limit_vocabulary(self.vocabulary_size)
        try:
            yield policy
        finally:
            # The caller's name for it still counts as a use: its tensors go, the shell stays.
            policy.to("meta")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class WithoutAdapters:
    """The policy that is trained, with its LoRA adapters switched off: the model it started from.

    Exactly that model as long as only the adapters are trained, and no second model in memory.

    Args:
        policy: the actor's `PolicyModel`, around a `PeftModel` whose base weights are frozen. It is
            not moved: by the time it is asked it is where it is trained.
    """

    def __init__(self, policy: PolicyModel) -> None:
        self.policy = policy

    @property
    def vocabulary_size(self) -> int:
        """Tokens that it gives a logit."""
        return self.policy.output_layer.vocabulary_size

    def limit_vocabulary(self, size: int) -> None:
        """Take the first `size` tokens only as possible, from now on; the policy's own width."""
        self.policy.limit_vocabulary(size)

    @contextmanager
    def on_device(self) -> Iterator[PolicyModel]:
        """The policy in eval mode, without its adapters as long as this lasts."""
        was_training = self.policy.training
        self.policy.eval()
        try:
            with self.policy.model.disable_adapter():
                yield self.policy
        finally:
            self.policy.train(was_training)


def frozen(policy: PolicyModel) -> PolicyModel:
    """The policy in eval mode, without gradients."""
    return policy.eval().requires_grad_(False)
