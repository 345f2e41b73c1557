"""From `PiRLMetaWorldEnvConfig` to settings and facts of the MetaWorld simulator.

Owns the reading of that config and the instruction texts. Starts nothing. Read
`pirl.envs.metaworld` next.
"""

from __future__ import annotations

import importlib.resources
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pirl.config.rules_fields import check_ranges
from pirl.config.view import View
from pirl.envs.base import EnvInfo, FrameSettings
from pirl.envs.metaworld import ACTION_WIDTH, STATE_WIDTH, MetaWorldSettings
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig

IMAGE_KEY = "observation.images.image"
"""The one camera."""


def task_names(env_cfg: EnvConfig) -> tuple[str, ...]:
    """Task names by task id."""
    cfg = _config(env_cfg)
    return tuple(cfg.tasks or [cfg.task])


def instructions() -> dict[str, str]:
    """Instruction text by task name, as LeRobot ships it for its own MetaWorld environment."""
    text = importlib.resources.files("lerobot").joinpath("envs/metaworld_config.json").read_text()
    return json.loads(text)["TASK_DESCRIPTIONS"]


def metaworld_settings(
    env_cfg: EnvConfig, *, image_keys: Sequence[str], frames: FrameSettings | None = None
) -> MetaWorldSettings:
    """What a worker needs.

    Raises:
        ConfigError: unknown task, or a limit MetaWorld does not have.
    """
    cfg = _config(env_cfg)
    _check(cfg)
    return MetaWorldSettings(
        task_names=task_names(env_cfg),
        image_keys=tuple(image_keys),
        cameras=(cfg.camera,),
        image_size=cfg.image_size,
        action_repeat=cfg.action_repeat,
        episode_length=cfg.episode_length,
        episode_lengths=None if cfg.episode_lengths is None else _limits(cfg),
        show_goal=cfg.show_goal,
        shared_layouts=cfg.shared_layouts,
        frames=frames,
    )


def metaworld_info(env_cfg: EnvConfig) -> EnvInfo:
    """Facts of the environment.

    Raises:
        ConfigError: as for `metaworld_settings`.
    """
    cfg = _config(env_cfg)
    _check(cfg)
    names = task_names(env_cfg)
    texts = instructions()
    told = [names[(i + cfg.instruction_shift) % len(names)] for i in range(len(names))]
    return EnvInfo(
        kind="pirl_metaworld",
        task_names=names,
        instructions=tuple(texts[name] for name in told),
        action_width=ACTION_WIDTH,
        state_width=STATE_WIDTH,
        image_shapes={IMAGE_KEY: (3, cfg.image_size, cfg.image_size)},
        max_control_steps={
            task_id: math.ceil(limit / cfg.action_repeat)
            for task_id, limit in enumerate(_limits(cfg))
        },
        sim_steps_per_action=cfg.action_repeat,
        reset_mode="seeded",
    )


def _config(env_cfg: EnvConfig) -> Any:
    return cast(Any, env_cfg)


def _limits(cfg: Any) -> tuple[int, ...]:
    """Time limits by task id, simulator steps."""
    return tuple(cfg.episode_lengths or [cfg.episode_length] * len(task_names(cfg)))


def _check(cfg: Any) -> None:
    known = instructions()
    problems = [
        FieldError(
            field="env.tasks" if cfg.tasks else "env.task",
            value=name,
            expected="a MetaWorld v3 task such as button-press-topdown-v3",
            fix=f"known tasks: {', '.join(sorted(known))}",
        )
        for name in (cfg.tasks or [cfg.task])
        if name not in known
    ]
    view = View({"env": {"type": "pirl_metaworld", **vars(cfg)}})
    problems += [e for e in check_ranges(view) if e.field.startswith("env.")]
    count = len(task_names(cfg))
    if len(_limits(cfg)) != count:
        problems.append(
            FieldError(
                field="env.episode_lengths",
                value=cfg.episode_lengths,
                expected=f"{count} time limits, one per task",
                fix="give one per task, or null to use episode_length",
            )
        )
    if problems:
        raise ConfigError(problems)
