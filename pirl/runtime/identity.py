"""The identity that a config gives its process: what `pirl.transport.identity` compares, field by field.

Owns which settings have a field of their own, so that a refusal says what differs and not only that something
does, and their texts. Read `pirl.transport.identity` next.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from pirl.config.load import LoadedConfig
from pirl.config.train import PiRLTrainConfig, env_of, policy_of
from pirl.contract.digests import architecture_digest
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.registry import policy_kind
from pirl.envs import load_split
from pirl.envs.kinds import env_kind
from pirl.envs.split import split_digest
from pirl.runtime.rewards import identity_of_reward
from pirl.transport.identity import Identity

_NOISE = (
    "base_sampler",
    "last_step_rule",
    "last_step_std",
    "noise_on_unused",
    "gripper_mode",
    "precision",
)
"""Knobs beside the variant's own section that decide how a chunk is drawn."""
_IMAGES = "observation.images."


def identity_of(
    loaded: LoadedConfig, policy: FlowPolicy, *, config_path: str, run_id: str
) -> Identity:
    """What learner and actor say about themselves, from the same bytes.

    Raises:
        ConfigError: the split file is unreadable.
        CheckpointError: the saved preprocessor of the starting policy is unreadable.
    """
    cfg = loaded.cfg
    return Identity(
        recipe=str(cfg.recipe),
        variant=str(cfg.pirl.variant),
        config_path=config_path,
        config_hash=loaded.identity.hash,
        run_id=run_id,
        policy_type=policy_of(cfg).type,
        policy_architecture=architecture_digest(policy),
        action_mode=policy.spec.action_mode,
        denoising_steps=policy.spec.denoising_steps,
        executed_steps=policy.spec.executed_steps,
        **settings_of(cfg),
    )


def settings_of(cfg: PiRLTrainConfig) -> dict[str, Any]:
    """The identity fields that follow from the config alone.

    Raises:
        ConfigError, CheckpointError: as `identity_of`.
    """
    split = load_split(env_of(cfg).type, mode=cfg.runtime.split, split_file=cfg.runtime.split_file)
    env, policy = env_of(cfg), policy_of(cfg)
    place, kind = env_kind(env.type), policy_kind(policy.type)
    cameras = ",".join(name.removeprefix(_IMAGES) for name in kind.cameras(policy))
    facts = kind.identity(policy)
    return {
        "environment": place.place(env),
        "control_mode": place.control_mode(env),
        "cameras": f"{cameras} of {kind.views(policy)} views",
        "policy_settings": " ".join(f"{name}={facts[name]}" for name in sorted(facts)),
        "reward": identity_of_reward(cfg),
        "state_split": f"{split.mode} of {split_digest(split)[:16]}",
        "noise_settings": _noise_settings(cfg),
    }


def _noise_settings(cfg: PiRLTrainConfig) -> str:
    section: Any = cfg.pirl.flow_sde if cfg.pirl.variant == "flow-sde" else cfg.pirl.flow_noise
    knobs = asdict(cfg.pirl)
    noise = asdict(section) | {name: knobs[name] for name in _NOISE}
    return " ".join(f"{name}={_text(value)}" for name, value in sorted(noise.items()))


def _text(value: object) -> str:
    """Short, because a refusal shows at most 256 characters of a field."""
    if isinstance(value, dict):
        return "/".join(str(v) for v in cast("dict[str, object]", value).values())
    if isinstance(value, list | tuple):
        return "/".join(str(v) for v in cast("list[object]", value))
    return str(value)
