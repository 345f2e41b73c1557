"""Facts about the simulator that evidence must carry: package version, tasks, digests of assets and states."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from pirl.audit.records.validate import Simulator
from pirl.envs import describe_env
from pirl.envs.kinds import env_kind
from pirl.envs.split import load_split, split_digest

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig


def environment_facts(env_cfg: EnvConfig) -> Simulator:
    """Name, version, tasks and digests; the digest of the assets covers every file's path and bytes.

    Raises:
        EnvironmentNotReadyError: its assets are not here, or not those that they should be.
    """
    info = describe_env(env_cfg)
    found = env_kind(env_cfg.type).facts(env_cfg)
    return Simulator(
        name=found.name,
        version=found.version,
        mujoco=version("mujoco"),
        tasks=tuple(info.task_names),
        assets=found.assets,
        initial_states={"split": split_digest(load_split(env_cfg.type)), **found.states},
        reset_mode=info.reset_mode,
    )
