"""The config of a run: LeRobot's RL training config plus `recipe`, `pirl` and `runtime`.

Owns the draccus classes; one of the doors to LeRobot (importing it imports torch). Refuses to
know how a file is read. A changed field here, or another LeRobot, needs `python -m
pirl.config.snapshot`. Read `pirl.config.load` next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.default import EvalConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.rl.train_rl import TrainRLServerPipelineConfig

from pirl.config import after_init
from pirl.config.bounds import Range, Words, bounded
from pirl.config.recipe import RECIPE, ParallelismConfig, PiRLConfig, RuntimeConfig
from pirl.config.rules import check_rules
from pirl.config.sections import encode_config as encode_config
from pirl.config.sections import env_of as env_of
from pirl.config.sections import policy_of as policy_of
from pirl.errors import ConfigError, FieldError


def _feature(kind: str, shape: tuple[int, ...]) -> PolicyFeature:
    return PolicyFeature(type=FeatureType[kind], shape=shape)


def _one_env_eval() -> EvalConfig:
    # LeRobot's default derives the batch from this machine's core count, which would make the
    # identity of one and the same file differ between machines.
    return EvalConfig(batch_size=1)


@dataclass(kw_only=True)
class PiRLTrainConfig(TrainRLServerPipelineConfig):
    """LeRobot's RL config with the piRL recipe; without `recipe` it behaves as LeRobot's own."""

    eval: EvalConfig = field(default_factory=_one_env_eval)
    recipe: str | None = bounded(None, Words((RECIPE,), has_rule=True))
    """`pi-rl`, or null for LeRobot's own SAC path."""
    pirl: PiRLConfig = field(default_factory=PiRLConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)

    def validate(self) -> None:
        """Check the config; with the recipe nothing is filled in.

        LeRobot's own `validate` would set `algorithm` to SAC and put the policy's supervised
        optimiser preset in place, so it runs only when `recipe` is absent.

        Raises:
            ConfigError: with the recipe, every rule that does not hold.
        """
        if self.recipe is None:
            super().validate()
            return
        errors = check_rules(encode_config(self))
        if errors:
            raise ConfigError(errors)


_TIME_LIMIT = Range(1, 500, "simulator steps; 500 is MetaWorld's own limit")
_CAMERAS = Words(
    ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
)


@EnvConfig.register_subclass("pirl_metaworld")
@dataclass
class PiRLMetaWorldEnvConfig(EnvConfig):
    """MetaWorld driven by pirl: rendered only when the policy looks, one camera."""

    task: str | None = "button-press-topdown-v3"
    tasks: list[str] | None = None
    """Task names by task id; null means `task` alone."""
    fps: int = 16
    """Control steps per second: MetaWorld's 80 Hz divided by `action_repeat`."""
    image_size: int = bounded(64, Range(16, 480, "pixels"))
    """Side of the square image, pixels."""
    action_repeat: int = bounded(5, Range(1, 80, "simulator steps"))
    """Simulator steps per policy action."""
    episode_length: int = bounded(95, _TIME_LIMIT)
    """Time limit in simulator steps."""
    episode_lengths: list[int] | None = bounded(None, _TIME_LIMIT)
    """Time limits by task id; null means `episode_length` for every task."""
    camera: str = bounded("corner2", _CAMERAS)
    """One of MetaWorld's cameras."""
    show_goal: bool = True
    """False hides MetaWorld's goal markers, which tell tasks of one scene apart."""
    shared_layouts: bool = False
    """True draws every task's layouts from the range of the first task: in tasks of one scene equal seeds are then
    equal layouts.
    """
    instruction_shift: int = 0
    """Task i is told the instruction of task i + this, cyclically: a control, 0 except when evaluating."""

    def __post_init__(self) -> None:
        after_init.metaworld(self, _feature)

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Nothing: there is no gym id behind this environment."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> Any:
        """Refuse: pirl's own runtime drives this environment.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            [
                FieldError(
                    field="env.type",
                    value="pirl_metaworld",
                    expected="an environment that LeRobot itself can create",
                    fix="this one is driven by pirl: run `pirl eval`, `pirl learner`, `pirl actor`;"
                    " LeRobot's commands can use --env.type=metaworld",
                )
            ]
        )
