"""Builders that contract tests share; every draw is a function of a seed."""

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.policies.xvla.processors import tokenize_instruction
from pirl.policies.xvla.tiny import tiny_metaworld_config, tiny_xvla_config
from pirl.policies.xvla.views import EMPTY_CAMERA_PREFIX
from pirl.records import Observation

INSTRUCTION = "put the white mug on the left plate"

ALL_MODES = ("ee6d", "joint", "so101_bimanual", "agibot_ee6d", "franka_joint7", "auto")


def a_config(action_mode="ee6d", **changes):
    """A tiny config; `auto` is the MetaWorld one."""
    if action_mode == "auto":
        return tiny_metaworld_config(**changes)
    return tiny_xvla_config(action_mode, **changes)


def a_policy(config=None, *, executed_dims=None, seed=0):
    """A randomly initialised policy behind the contract, free to alter.

    Equal questions are answered with copies, because building costs ten times as much.
    """
    config = config or a_config()
    wanted = _Wanted(text=repr(config), seed=seed, config=config)
    built = (_build if config.pretrained_path is None else _build.__wrapped__)(wanted)
    return XVLAFlowPolicy(deepcopy(built.module), executed_dims=executed_dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What a policy is built from, compared by its text."""

    text: str
    seed: int
    config: Any = field(compare=False)


@cache
def _build(wanted: _Wanted):
    return a_built_policy(wanted.config, seed=wanted.seed)


def a_built_policy(config=None, *, executed_dims=None, seed=0):
    """The same, built anew."""
    return build_policy(config or a_config(), executed_dims=executed_dims, device="cpu", seed=seed)


def cameras(config):
    """The real cameras of a config."""
    return [key for key in config.image_features if not key.startswith(EMPTY_CAMERA_PREFIX)]


def an_observation(config, *, rows=2, seed=0, size=64, domain_id=0):
    """Random pixels and state with a real instruction."""
    rng = torch.Generator().manual_seed(seed)
    return Observation(
        images={
            key: torch.randint(0, 256, (rows, 3, size, size), generator=rng, dtype=torch.uint8)
            for key in cameras(config)
        },
        state=torch.randn(rows, config.max_state_dim, generator=rng),
        inputs={
            "input_ids": tokenize_instruction(config, INSTRUCTION).expand(rows, -1),
            "domain_id": torch.full((rows,), domain_id, dtype=torch.int64),
        },
    )


def noise(policy, *, rows=2, seed=0):
    """Standard normal [B, C, D]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, policy.spec.chunk_size, policy.spec.model_dim, generator=rng)
