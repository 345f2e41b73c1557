"""Which policy types have a contract adapter. PI-RL is a recipe, never a policy type.

Owns the list. Refuses everything else, also policies that LeRobot could build. Read
`pirl.contract.xvla` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.xvla.configuration_xvla import XVLAConfig

from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.xvla import build_policy
from pirl.errors import ConfigError, FieldError


class PolicyAdapter(Protocol):
    """Builds a policy of one type behind the contract."""

    def __call__(
        self,
        policy_config: PreTrainedConfig,
        *,
        executed_dims: Sequence[int] | None,
        device: str | torch.device,
        seed: int,
    ) -> FlowPolicy:
        """See `pirl.contract.xvla.build_policy`."""
        ...


def _build_xvla(
    policy_config: PreTrainedConfig,
    *,
    executed_dims: Sequence[int] | None,
    device: str | torch.device,
    seed: int,
) -> FlowPolicy:
    if not isinstance(policy_config, XVLAConfig):
        raise _refusal(type(policy_config).__name__)
    return build_policy(policy_config, executed_dims=executed_dims, device=device, seed=seed)


ADAPTERS: Mapping[str, PolicyAdapter] = {"xvla": _build_xvla}
"""Policy type -> adapter; the same types as `pirl.config.recipe.QUALIFIED_POLICIES`."""


def build_flow_policy(
    policy_config: PreTrainedConfig,
    *,
    executed_dims: Sequence[int] | None,
    device: str | torch.device,
    seed: int,
) -> FlowPolicy:
    """The policy of a config behind the contract, whatever its type.

    Raises:
        ConfigError: no adapter for the type; the message lists those that have one.
    """
    adapter = ADAPTERS.get(policy_config.type)
    if adapter is None:
        raise _refusal(policy_config.type)
    return adapter(policy_config, executed_dims=executed_dims, device=device, seed=seed)


def _refusal(policy_type: str) -> ConfigError:
    return ConfigError(
        [
            FieldError(
                field="policy.type",
                value=policy_type,
                expected=f"one of: {', '.join(ADAPTERS)} (flow policies with a contract adapter)",
                fix="choose such a policy; PI-RL is named by recipe=pi-rl, never by policy.type",
            )
        ]
    )
