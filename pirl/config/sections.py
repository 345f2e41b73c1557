"""The parts of a config object, read alike from the plain one and from LeRobot's own.

Owns `env_of`, `policy_of` and the encoding as JSON values. Needs no LeRobot.
"""

from __future__ import annotations

from typing import Any

import draccus

from pirl.errors import ConfigError, FieldError


def encode_config(cfg: Any) -> dict[str, Any]:
    """The config as plain JSON values, `type` keys included.

    Any: `PiRLTrainConfig` of `pirl.config.train`, or its namesake in `pirl.config.lerobot_fields`.
    """
    return draccus.encode(cfg, type(cfg))


def env_of(cfg: Any) -> Any:
    """The environment of a config that was checked, which refuses one without.

    Any: which fields there are depends on the registered choice.
    """
    if cfg.env is None:
        raise ConfigError([_absent("env")])
    return cfg.env


def policy_of(cfg: Any) -> Any:
    """The policy config of a config that was checked; its class depends on its type."""
    if cfg.policy is None:
        raise ConfigError([_absent("policy")])
    return cfg.policy


def _absent(name: str) -> FieldError:
    return FieldError(field=name, value=None, expected="a section", fix=f"add {name} to the config")
