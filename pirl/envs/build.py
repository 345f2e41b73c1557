"""From an environment config to a vector environment.

Owns the checks before any process starts; which simulator it is, its kind knows (`pirl.envs.kinds`). Read
`pirl.envs.vector` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pirl.envs.base import EnvInfo, FrameSettings
from pirl.envs.host import Deadlines
from pirl.envs.kinds import env_kind
from pirl.envs.split import StateSplit
from pirl.envs.vector import SlotVectorEnv, check_counts
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig


def describe_env(env_cfg: EnvConfig) -> EnvInfo:
    """Tasks, instructions, shapes and limits of an environment; starts no simulator.

    Raises:
        ConfigError: the environment is not one that pirl drives, or names an unknown task.
        EnvironmentNotReadyError: its packages or assets are missing.
    """
    return env_kind(env_cfg.type).info(env_cfg)


def make_vector_env(
    env_cfg: EnvConfig,
    *,
    num_envs: int,
    num_workers: int,
    image_keys: Sequence[str],
    split: StateSplit,
    record_frames: bool = False,
    stock_simulator: bool = False,
    deadlines: Deadlines | None = None,
) -> SlotVectorEnv:
    """Build the vector environment of `env_cfg`.

    `num_workers=0` keeps every slot in this process: no deadline can be enforced there, and LIBERO
    seeds NumPy's global generator. `image_keys` are the policy's cameras in its order. Call it from
    a thread that outlives the environment (`pirl.envs.host.ProcessHost`).

    Raises:
        ConfigError: counts, cameras, tasks or environment type do not fit.
        EnvironmentNotReadyError: packages, assets or GL are missing.
        EnvError: a worker did not start.
    """
    check_counts(num_envs, num_workers)
    kind = env_kind(env_cfg.type)
    info = kind.info(env_cfg)
    _check_cameras(image_keys, info.image_shapes)
    settings = kind.settings(
        env_cfg,
        image_keys=image_keys,
        frames=FrameSettings() if record_frames else None,
        stock_simulator=stock_simulator,
    )
    return SlotVectorEnv(
        settings,
        info=info,
        codec=kind.codec(),
        split=split,
        num_envs=num_envs,
        num_workers=num_workers,
        deadlines=deadlines,
    )


def _check_cameras(wanted: Sequence[str], offered: Mapping[str, object]) -> None:
    missing = [key for key in wanted if key not in offered]
    if missing or not wanted:
        raise ConfigError(
            [
                FieldError(
                    field="policy image features",
                    value=list(wanted),
                    expected=f"cameras of the environment: {', '.join(offered)}",
                    fix="rename the policy's image features or map the environment's cameras",
                )
            ]
        )
