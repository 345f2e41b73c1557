"""From an environment config to a vector environment: the one place that knows every simulator.

Owns the choice of simulator and the checks before any process starts. Read `pirl.envs.vector` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pirl.envs.base import EnvInfo, FrameSettings, SlotSettings
from pirl.envs.host import Deadlines
from pirl.envs.metaworld_config import metaworld_info, metaworld_settings
from pirl.envs.split import StateSplit
from pirl.envs.vector import Codec, IdentityCodec, SlotVectorEnv, check_counts
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig

SUPPORTED = ("libero", "pirl_metaworld")


def describe_env(env_cfg: EnvConfig) -> EnvInfo:
    """Tasks, instructions, shapes and limits of an environment; starts no simulator.

    Raises:
        ConfigError: the environment is not one that pirl drives, or names an unknown task.
        EnvironmentNotReadyError: its packages or assets are missing.
    """
    if env_cfg.type == "pirl_metaworld":
        return metaworld_info(env_cfg)
    if env_cfg.type == "libero":
        from pirl.envs.libero_config import libero_info

        return libero_info(env_cfg)
    raise ConfigError(
        [
            FieldError(
                field="env.type",
                value=env_cfg.type,
                expected=f"one of {', '.join(SUPPORTED)}",
                fix="choose a simulator that pirl drives",
            )
        ]
    )


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
    info = describe_env(env_cfg)
    _check_cameras(image_keys, info.image_shapes)
    frames = FrameSettings() if record_frames else None
    settings: SlotSettings
    codec: Codec
    if info.kind == "pirl_metaworld":
        settings = metaworld_settings(env_cfg, image_keys=image_keys, frames=frames)
        codec = IdentityCodec()
    else:
        from pirl.envs.libero_config import libero_codec, libero_settings

        settings = libero_settings(
            env_cfg, image_keys=image_keys, frames=frames, stock_simulator=stock_simulator
        )
        codec = libero_codec()
    return SlotVectorEnv(
        settings,
        info=info,
        codec=codec,
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
