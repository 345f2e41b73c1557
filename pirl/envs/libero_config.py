"""From LeRobot's `LiberoEnv` config to settings, facts and codec of the LIBERO simulator.

Owns the reading of that config. Starts no simulator. Read `pirl.envs.libero` next.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float32

from pirl.envs.base import Array, EnvInfo, EnvObservation, FrameSettings
from pirl.envs.libero import (
    ACTION_WIDTH,
    HORIZON,
    SETTLE_STEPS,
    LiberoScene,
    LiberoSettings,
    LiberoTask,
)
from pirl.envs.libero_assets import prepare_assets
from pirl.envs.libero_setup import prepare_config, quiet_stdout
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig

STATE_WIDTH = 20
"""Position (3), 6-D rotation (6), a zero, and ten zeros for the arm that is not there."""
_CAMERA_NAMES = {"agentview_image": "image", "robot0_eye_in_hand_image": "image2"}
"""LeRobot's default names; used when the config maps none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    task: LiberoTask
    instruction: str
    bddl_file: str
    init_states_file: str

    def scene(self) -> LiberoScene:
        import torch

        # Pickled by an older NumPy. LeRobot loads these files with whatever code is in them.
        rebuild = importlib.import_module("numpy._core.multiarray")._reconstruct  # noqa: SLF001
        arrays: list[Any] = [
            (rebuild, "numpy.core.multiarray._reconstruct"),
            *(np.ndarray, np.dtype, np.dtypes.Float64DType),
        ]
        with torch.serialization.safe_globals(arrays):
            states = torch.load(self.init_states_file, weights_only=True)
        return LiberoScene(bddl_file=self.bddl_file, init_states=np.asarray(states, np.float64))


def libero_settings(
    env_cfg: EnvConfig,
    *,
    image_keys: Sequence[str],
    frames: FrameSettings | None = None,
    stock_simulator: bool = False,
) -> LiberoSettings:
    """What a worker needs.

    Args:
        stock_simulator: do all that robosuite does, hard resets included; the results are the same.

    Raises:
        ConfigError: the config asks for what pirl does not drive.
        EnvironmentNotReadyError: package or assets are missing.
    """
    cfg = _config(env_cfg)
    _check(cfg)
    entries = _entries(cfg)
    cameras = _cameras(cfg)
    options = {
        "observation_height": cfg.observation_height,
        "observation_width": cfg.observation_width,
        "control_freq": cfg.fps,
        "control_mode": cfg.control_mode,
        # To `LiberoSim` a soft reset is one with the bits of a hard one.
        "hard_reset": stock_simulator,
    }
    return LiberoSettings(
        tasks=tuple(entry.task for entry in entries),
        cameras={key: cameras[key] for key in image_keys},
        scenes=tuple(entry.scene() for entry in entries),
        options=options,
        assets=str(prepare_assets()),
        frames=frames,
    )


def libero_info(env_cfg: EnvConfig) -> EnvInfo:
    """Facts of the environment.

    Raises:
        ConfigError: as for `libero_settings`.
        EnvironmentNotReadyError: the package is missing.
    """
    cfg = _config(env_cfg)
    _check(cfg)
    entries = _entries(cfg)
    shape = (3, cfg.observation_height, cfg.observation_width)
    return EnvInfo(
        kind="libero",
        task_names=tuple(entry.task.name for entry in entries),
        instructions=tuple(entry.instruction for entry in entries),
        action_width=ACTION_WIDTH,
        state_width=STATE_WIDTH,
        image_shapes=dict.fromkeys(_cameras(cfg), shape),
        max_control_steps={i: entry.task.max_steps for i, entry in enumerate(entries)},
        sim_steps_per_action=1,
        reset_mode="hard",
    )


class LiberoCodec:
    """Raw LIBERO values to X-VLA's and back, by LeRobot's own processor steps."""

    def decode(self, observation: EnvObservation) -> EnvObservation:
        """Turn the main image upright and build the 20-dim state; images stay uint8."""
        from pirl.policies.xvla.libero import policy_observation

        images, state = policy_observation(
            observation.images,
            position=observation.state[:3],
            rotation=observation.state[3:].reshape(3, 3),
        )
        return replace(observation, images=images, state=state)

    def encode(self, chunk: Float32[Array, "*B 20"]) -> Float32[Array, "*B 7"]:
        """Rows of the ee6d action space to position, axis-angle and gripper sign."""
        from pirl.policies.xvla.libero import libero_actions

        rows = np.ascontiguousarray(chunk.reshape(-1, chunk.shape[-1]))
        return libero_actions(rows).reshape(*chunk.shape[:-1], ACTION_WIDTH)


def libero_codec() -> LiberoCodec:
    """The codec of X-VLA on LIBERO."""
    return LiberoCodec()


def _config(env_cfg: EnvConfig) -> Any:
    return cast(Any, env_cfg)


def _cameras(cfg: Any) -> dict[str, str]:
    """robosuite camera by observation key, in the config's order."""
    mapping: Mapping[str, str] = cfg.camera_name_mapping or _CAMERA_NAMES
    names = [name.strip() for name in str(cfg.camera_name).split(",")]
    return {f"observation.images.{mapping[name]}": name for name in names}


def _entries(cfg: Any) -> list[_Entry]:
    prepare_config()
    with quiet_stdout():
        from libero.libero import benchmark

        entries: list[_Entry] = []
        suites: dict[str, Any] = benchmark.get_benchmark_dict()
        for name in [part.strip() for part in str(cfg.task).split(",")]:
            if name not in suites:
                raise _refuse("env.task", name, f"suites from {', '.join(sorted(suites))}")
            suite: Any = suites[name]()
            chosen: Sequence[int] = range(suite.n_tasks) if cfg.task_ids is None else cfg.task_ids
            for index in chosen:
                if not 0 <= index < suite.n_tasks:
                    raise _refuse("env.task_ids", index, f"0 to {suite.n_tasks - 1} in {name}")
                task = suite.get_task(index)
                entries.append(
                    _Entry(
                        task=LiberoTask(
                            suite=name, suite_task_id=index, max_steps=_limit(cfg, name)
                        ),
                        instruction=task.language,
                        bddl_file=_file("bddl_files", task.problem_folder, task.bddl_file),
                        init_states_file=_file(
                            "init_states", task.problem_folder, task.init_states_file
                        ),
                    )
                )
    return entries


def _file(kind: str, folder: str, name: str) -> str:
    from libero.libero import get_libero_path

    return str(Path(get_libero_path(kind)) / folder / name)


def _limit(cfg: Any, suite: str) -> int:
    if cfg.episode_length is not None:
        return int(cfg.episode_length)
    from lerobot.envs.libero import TASK_SUITE_MAX_STEPS

    return TASK_SUITE_MAX_STEPS[suite]


def _check(cfg: Any) -> None:
    problems: list[FieldError] = []
    rules = {
        "obs_type": (cfg.obs_type == "pixels_agent_pos", "pixels_agent_pos"),
        "init_states": (cfg.init_states is True, "true"),
        # LeRobot's soft reset leaves the gripper's command and colours behind: the same plan then gives other
        # observations, depending on the episode before. `runtime.stock_simulator` chooses between exact ones.
        "hard_reset": (cfg.hard_reset is True, "true"),
        "is_libero_plus": (cfg.is_libero_plus is False, "false"),
        "control_mode": (cfg.control_mode in ("absolute", "relative"), "absolute or relative"),
    }
    for name, (holds, expected) in rules.items():
        if not holds:
            problems.append(
                FieldError(
                    field=f"env.{name}",
                    value=getattr(cfg, name),
                    expected=expected,
                    fix=f"set --env.{name}={expected.split(' ')[0]}",
                )
            )
    longest = HORIZON - SETTLE_STEPS
    if cfg.episode_length is not None and not 1 <= cfg.episode_length <= longest:
        problems.append(
            FieldError(
                field="env.episode_length",
                value=cfg.episode_length,
                expected=f"1 to {longest} control steps",
                fix="robosuite ends every episode there; choose a shorter limit",
            )
        )
    if problems:
        raise ConfigError(problems)


def _refuse(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError([FieldError(field=name, value=value, expected=expected, fix="correct it")])
