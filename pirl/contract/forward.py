"""The PI-RL forward contract: one call from a batch of decisions to losses and named metrics.

Owns the signature that both variants share. Refuses to hold mathematics, which is
`pirl.algorithm`'s. Read `pirl.algorithm` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pirl.records import DecisionBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PiRLForwardOutput:
    """What one PI-RL forward pass yields."""

    loss: Float[Tensor, ""]
    """The differentiable total (`algorithm.md` 10.4)."""
    parts: Mapping[str, Float[Tensor, ""]]
    """Detached addends of the total, weights applied: `policy`, `value`, and those switched on."""
    metrics: Mapping[str, float]
    """Names of the metric table."""


class PiRLForward(Protocol):
    """Losses and metrics of a minibatch of decisions, for either variant.

    Gradients reach the policy's trained parameters, the critic and, with Flow-Noise, the noise
    head; never a frozen parameter. The policy is in eval mode before and after. No draw from a
    global generator.
    """

    def __call__(
        self,
        batch: DecisionBatch,
        *,
        anchor: Tensor,
        advantages: Tensor,
        returns: Tensor,
        rng: torch.Generator,
    ) -> PiRLForwardOutput:
        """Evaluate one minibatch.

        Args:
            anchor: log-prob per element of the proximal policy (`algorithm.md` 12.2), nats.
            advantages: [B] fp32, already normalised.
            returns: [B] fp32, the critic's targets.
            rng: for demonstration noise.

        Raises:
            NumericsError: a loss is not finite.
        """
        ...
