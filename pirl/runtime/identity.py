"""The identity that a config gives its process: what `pirl.transport.identity` compares, field by field.

Owns which settings have a field of their own, so that a refusal says what differs and not only that something
does, and their texts. Read `pirl.transport.identity` next.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from pirl.config.load import LoadedConfig
from pirl.config.train import PiRLTrainConfig, env_of, policy_of
from pirl.config.views import view_count
from pirl.contract.xvla import XVLAFlowPolicy, architecture_digest, domain_id_of
from pirl.contract.xvla_inputs import real_cameras
from pirl.envs import describe_env, load_split
from pirl.envs.split import split_digest
from pirl.transport.identity import Identity

_NOISE = ("base_sampler", "last_step_rule", "last_step_std", "noise_on_unused", "gripper_mode")
"""Knobs beside the variant's own section that decide how a chunk is drawn."""
_IMAGES = "observation.images."


def identity_of(
    loaded: LoadedConfig, policy: XVLAFlowPolicy, *, config_path: str, run_id: str
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
    policy = policy_of(cfg)
    cameras = ",".join(name.removeprefix(_IMAGES) for name in real_cameras(policy))
    return {
        "environment": _environment(cfg),
        "control_mode": _control_mode(cfg),
        "cameras": f"{cameras} of {view_count(policy)} views",
        "domain_id": domain_id_of(policy),
        "state_split": f"{split.mode} of {split_digest(split)[:16]}",
        "noise_settings": _noise_settings(cfg),
    }


def _environment(cfg: PiRLTrainConfig) -> str:
    env: Any = env_of(cfg)
    if env.type == "libero":
        chosen = "" if env.task_ids is None else f" tasks {env.task_ids}"
        return f"libero/{env.task}{chosen}, limit {env.episode_length}"
    return f"{env.type}/{'+'.join(describe_env(env).task_names)}, limit {env.episode_length}"


def _control_mode(cfg: PiRLTrainConfig) -> str:
    env: Any = env_of(cfg)
    # MetaWorld knows displacements of the hand only.
    return str(env.control_mode) if env.type == "libero" else "relative"


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
