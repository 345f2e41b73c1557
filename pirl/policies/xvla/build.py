"""X-VLA policies built.

Owns where weights come from. Refuses every way of getting random weights by accident. Read
`pirl.policies.xvla.policy` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

from pirl.errors import ConfigError, FieldError
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.policies.xvla.source import load_policy
from pirl.policies.xvla.unfit import refuse_unfit_config
from pirl.policies.xvla.views import count_views_once


def build_policy(
    policy_config: XVLAConfig,
    *,
    executed_dims: Sequence[int] | None,
    device: str | torch.device,
    seed: int,
    train_scope: str = "transformer",
    precision: str = "fp32",
) -> XVLAFlowPolicy:
    """The policy of a resolved config, on `device`, in eval mode; the global RNGs stay as they are.

    `policy_config.pretrained_path` is a folder or a hub id and is loaded with strict keys, from
    either of LeRobot's two Florence layouts. Null is the only way to random weights; they are then
    a function of `seed` alone, equal on every device.

    Args:
        policy_config: complete geometry included, as LeRobot's own loading with `--policy.path`
            leaves it; not altered.

    Raises:
        EnvironmentNotReadyError: the folder does not exist or the hub does not answer.
        CheckpointError: the weights are damaged or do not fit the config.
        MismatchError: the config describes another geometry than the checkpoint's own.
        ContractError: RL cannot train such a policy.
        ConfigError: no geometry in the config, or `executed_dims` does not fit.
    """
    _require_geometry(policy_config)
    refuse_unfit_config(policy_config)
    config = deepcopy(policy_config)
    config.device = str(device)
    count_views_once(config)
    # Construction draws from the global CPU generator, also when a checkpoint overwrites the draw.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        policy = XVLAPolicy(config) if config.pretrained_path is None else load_policy(config)
    policy.to(device)
    return XVLAFlowPolicy(
        policy, executed_dims=executed_dims, train_scope=train_scope, precision=precision
    )


def _require_geometry(config: XVLAConfig) -> None:
    if config.florence_config:
        return
    raise ConfigError(
        [
            FieldError(
                field="policy.florence_config",
                value=config.florence_config,
                expected="the vision and text geometry of the policy",
                fix="give the checkpoint as --policy.path=FOLDER_OR_HUB_ID: its own config is "
                "read then; or copy its config.json into the policy section",
            )
        ]
    )
