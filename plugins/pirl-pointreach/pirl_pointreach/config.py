"""The config section `env` of type `pointreach`; a door to LeRobot (importing it imports torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.envs.configs import EnvConfig

from pirl.config.bounds import Range, bounded
from pirl.errors import ConfigError, FieldError


@EnvConfig.register_subclass("pointreach")
@dataclass
class PointReachConfig(EnvConfig):
    """Tasks, picture and time limit."""

    task: str | None = "reach-red"
    tasks: list[str] = field(default_factory=list)
    """Task names by task id; empty means `task` alone."""
    fps: int = 10
    image_size: int = bounded(64, Range(16, 480, "pixels"))
    """Side of the picture, pixels."""
    episode_length: int = 15
    """Time limit in control actions of 0.1 s."""

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Nothing: pirl's own runtime drives it."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> Any:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        error = FieldError(
            field="env.type",
            value="pointreach",
            expected="an environment that LeRobot itself can create",
            fix="run `pirl eval` or `pirl launch`",
        )
        raise ConfigError([error])
