"""Where policies come from: one kind per policy type, found by name, built in one place.

Owns what a kind can do that needs a network; what it says about a config is `pirl.config.kinds.PolicyFacts`.
PI-RL is a recipe, never a policy type. Refuses types that nobody installed, with the list of those that are.
Imports no torch, so that a kind does not either. Read `pirl.doors` for how kinds are found and
`pirl.contract.flow_policy` next.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pirl.config.kinds import PolicyFacts, policy_facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pirl.contract.flow_policy import FlowPolicy
    from pirl.records import Observation


class PolicyKind(PolicyFacts):
    """A policy type that the recipe trains; an entry point of the group `pirl.policies` names an instance."""

    @abstractmethod
    def build(
        self,
        policy_config: Any,
        *,
        executed_dims: Sequence[int] | None,
        device: str | torch.device,
        seed: int,
        train_scope: str,
        precision: str,
    ) -> FlowPolicy:
        """The policy of a resolved config, on `device`, in eval mode; the global RNGs stay as they are.

        `policy_config.pretrained_path` is loaded with strict keys; null is the only way to random weights,
        which are then a function of `seed` alone.

        Args:
            train_scope: `transformer` (what turns noise into actions; the encoder is frozen) or `all`.
            precision: one of the kind's `precisions`.

        Raises:
            EnvironmentNotReadyError, CheckpointError, MismatchError: the weights cannot be had or do not fit.
            ContractError, ConfigError: RL cannot train such a policy.
        """

    @abstractmethod
    def load_stock(self, folder: Path) -> nn.Module:
        """The policy of a checkpoint folder as stock LeRobot loads it, strict keys."""

    @abstractmethod
    def stock_generate(self, stock: nn.Module, observation: Observation, noise: Tensor) -> Tensor:
        """Environment chunk [B, C, A] of LeRobot's own sampler when it starts from `noise` [B, C, D]."""


def policy_kind(policy_type: str) -> PolicyKind:
    """The kind of a policy type.

    Raises:
        ConfigError: nobody offers one; the message lists those that are there.
    """
    return cast("PolicyKind", policy_facts(policy_type))


def build_flow_policy(
    policy_config: Any,
    *,
    executed_dims: Sequence[int] | None,
    device: str | torch.device,
    seed: int,
    train_scope: str = "transformer",
    precision: str = "fp32",
) -> FlowPolicy:
    """The policy of a config behind the contract, whatever its type; see `PolicyKind.build`."""
    return policy_kind(policy_config.type).build(
        policy_config,
        executed_dims=executed_dims,
        device=device,
        seed=seed,
        train_scope=train_scope,
        precision=precision,
    )
