"""The X-VLA x LIBERO profile of the doctor: what a published X-VLA checkpoint needs to score at all.

A checkpoint that acts through the wrong control mode, a short episode or swapped cameras scores 0 % and nothing
says why (lerobot#3401, #4245). Owns the expected values, one remedy each. Refuses to load weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pirl.config.after_init import image_features
from pirl.config.check import check_config
from pirl.config.kinds import policy_facts
from pirl.config.sections import env_of, policy_of
from pirl.config.strictjson import read_json_object
from pirl.doctor.arguments import PROFILE_CONFIG
from pirl.doctor.check import Check, finding
from pirl.envs.libero_rules import CONTROL_MODE, EPISODE_LENGTH
from pirl.envs.libero_rules import USUAL_CAMERAS as CAMERAS
from pirl.errors import CheckpointError, ConfigError, EnvironmentNotReadyError
from pirl.resources import locate

ACTION_MODE = "ee6d"
DOMAIN_ID = 3
"""LIBERO's embodiment in X-VLA's pre-training."""

_NAME = "profile "


def profile_checks(path: Path = PROFILE_CONFIG) -> list[Check]:
    """Environment side and checkpoint side of a train config, one finding each."""
    try:
        env = read_json_object(locate(path))["env"]
        if not isinstance(env, dict):
            raise TypeError("env is no object")
    except (OSError, ValueError, LookupError, TypeError) as error:
        found = f"{path.name} cannot be read: {type(error).__name__}"
        remedy = "run from the repository root, or give --config_path a train config"
        return [finding(f"{_NAME}config", False, found, remedy)]
    return [
        _equal("control_mode", env.get("control_mode"), CONTROL_MODE, field="env.control_mode"),
        _equal(
            "episode_length", env.get("episode_length"), EPISODE_LENGTH, field="env.episode_length"
        ),
        *_checkpoint_checks(path),
    ]


def _equal(name: str, found: object, wanted: object, *, field: str) -> Check:
    remedy = f"set {field} to {wanted!r} in the train config"
    return finding(_NAME + name, found == wanted, str(found), remedy)


def _checkpoint_checks(path: Path) -> list[Check]:
    """What only the checkpoint knows: how it acts, for which embodiment, through which cameras."""
    try:
        cfg = check_config(path).cfg
    except EnvironmentNotReadyError as error:
        found = f"not here, so action mode, domain id and cameras were not checked: {error.what}"
        return [finding(f"{_NAME}checkpoint", False, found, error.remedy, required=False)]
    except ConfigError as error:
        first = error.errors[0]
        found = f"{first.field} = {first.value!r}, expected {first.expected}"
        return [finding(f"{_NAME}config", False, found, first.fix)]
    policy = policy_of(cfg)
    cameras = tuple(image_features(policy))[: len(CAMERAS)]
    start = policy.pretrained_path
    return [
        finding(
            f"{_NAME}checkpoint",
            start is not None,
            str(start or "none: random weights"),
            "set policy.path to an X-VLA checkpoint",
            required=False,
        ),
        _equal("action_mode", policy.action_mode, ACTION_MODE, field="policy.action_mode"),
        _domain(policy),
        finding(
            f"{_NAME}cameras",
            cameras == CAMERAS,
            f"{', '.join(c.rsplit('.', 1)[-1] for c in cameras)} of {env_of(cfg).type}",
            f"order policy.input_features as {', '.join(CAMERAS)}",
        ),
    ]


def _domain(policy: Any) -> Check:
    name, wanted = f"{_NAME}domain_id", DOMAIN_ID if policy.pretrained_path else 0
    try:
        found = policy_facts(policy.type).identity(policy).get("domain_id")
    except CheckpointError as error:
        return finding(name, False, str(error), "download the checkpoint again")
    remedy = f"the preprocessor was saved for another robot: set domain_id {wanted} in it"
    return finding(name, found == wanted, str(found), remedy)
