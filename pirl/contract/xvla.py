"""X-VLA policies built, saved and described: what the rest of pirl imports of `pirl.contract`.

Owns where weights come from and what a saved checkpoint folder holds. Refuses every way of getting
random weights by accident. Read `pirl.contract.check` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

from pirl.config.views import count_views_once
from pirl.contract.clauses import refuse_unfit_config
from pirl.contract.digests import architecture_digest, weights_digest
from pirl.contract.processors import (
    domain_id_of,
    make_saved_processors,
    save_processors,
    tokenize_instruction,
)
from pirl.contract.source import load_policy
from pirl.contract.tf32 import turn_off_tf32
from pirl.contract.xvla_policy import EMPTY_CAMERA_PREFIX, XVLAFlowPolicy
from pirl.errors import ConfigError, FieldError

__all__ = [
    "XVLAFlowPolicy",
    "architecture_digest",
    "build_policy",
    "domain_id_of",
    "make_saved_processors",
    "save_pretrained",
    "tokenize_instruction",
    "turn_off_tf32",
    "weights_digest",
]


def build_policy(
    policy_config: XVLAConfig,
    *,
    executed_dims: Sequence[int] | None,
    device: str | torch.device,
    seed: int,
    train_scope: str = "transformer",
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
    return XVLAFlowPolicy(policy, executed_dims=executed_dims, train_scope=train_scope)


def save_pretrained(flow_policy: XVLAFlowPolicy, folder: str | Path, *, for_libero: bool) -> Path:
    """Write what stock LeRobot needs: config, weights, processors, tokenizer. Nothing of pirl's
    own.

    Args:
        for_libero: whether `lerobot-eval` will run its LIBERO processors, which normalise images
            (`pirl.contract.processors`).
    """
    folder = Path(folder)
    policy = flow_policy.module
    policy.save_pretrained(folder)
    config = deepcopy(policy.model.config)
    # LeRobot adds a feature per empty camera when it builds a policy, and would count them twice on
    # loading a config that already lists them: one more padded view, other actions.
    config.input_features = {
        name: feature
        for name, feature in (config.input_features or {}).items()
        if not name.startswith(EMPTY_CAMERA_PREFIX)
    }
    config.save_pretrained(folder)
    save_processors(
        config, folder, for_libero=for_libero, domain_id=domain_id_of(policy.model.config)
    )
    return folder


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
