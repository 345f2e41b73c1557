"""What the clauses of the contract ask a policy with.

Owns the fixed inputs: one observation, noise, flow times. Refuses to judge. Read
`pirl.contract.check_shapes` and `pirl.contract.check_behaviour` next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pirl.contract.flow_policy import FlowPolicy
from pirl.records import Context, Observation, Prediction

CRITIC = "critic_features"


@dataclass(frozen=True)
class Probe:
    """A policy and the inputs it is asked with; the same bits whenever they are read."""

    policy: FlowPolicy
    observation: Observation

    @cached_property
    def context(self) -> Context:
        """The encoded observation."""
        return self.policy.encode(self.observation)

    @cached_property
    def x(self) -> Tensor:
        """Noise of shape [B, C, D]."""
        return self.noise(0)

    @cached_property
    def t(self) -> Tensor:
        """Flow times within (0, 1], different in every row."""
        rows = len(self.observation)
        return (1 - torch.arange(rows) / (2 * rows)).to(self.policy.device)

    def noise(self, seed: int) -> Tensor:
        """Standard normal [B, C, D], a function of `seed`."""
        spec = self.policy.spec
        shape = (len(self.observation), spec.chunk_size, spec.model_dim)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(
            self.policy.device
        )

    def predict(self, x: Tensor) -> Prediction:
        """Prediction without a graph."""
        with torch.no_grad():
            return self.policy.predict(self.context, x, self.t)


def parts(context: Context) -> dict[str, Tensor]:
    """Every tensor of a context by name, the critic's too."""
    return {**context.tensors, CRITIC: context.critic_features}


def differing(one: Context, two: Context) -> list[str]:
    """Tensors whose bits differ."""
    first, second = parts(one), parts(two)
    changed = [name for name in first if name not in second] + [*(second.keys() - first.keys())]
    common = (name for name in first if name in second)
    return [*changed, *(name for name in common if not torch.equal(first[name], second[name]))]


def some(names: list[str]) -> str:
    """The first three names and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
