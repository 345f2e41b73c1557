"""The PI-RL forward contract: one call from a batch of transitions to losses and named metrics.

Owns the signature that both variants share. Refuses to hold mathematics: `pirl.algorithm.pi_rl`
answers it. Read that next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from pirl.records import DecisionBatch


class PiRLLosses(Protocol):
    """What one forward pass yields."""

    @property
    def total(self) -> Tensor:
        """Scalar, differentiable in trained parameters, critic and noise head; in nothing else."""
        ...

    @property
    def losses(self) -> Mapping[str, Tensor]:
        """Scalars by name: `policy_loss`, `value_loss`, `total_loss` and those switched on."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Finite numbers under names of the metric table."""
        ...


@runtime_checkable
class PiRLForward(Protocol):
    """Losses and metrics of a batch of decisions, for either variant.

    Changes nothing: weights, optimiser, counters and global generators stay, and the policy is in
    eval mode afterwards.
    """

    def forward_batch(self, batch: DecisionBatch) -> PiRLLosses:
        """Evaluate the batch as one minibatch, sorted by (episode, chunk).

        Raises:
            NumericsError: a loss is not finite.
            ContractError: a decision lacks a log-prob that the recipe needs.
        """
        ...
