"""A kind of environment: everything that pirl asks of a simulator before and while it runs one.

Owns the abstract class; what it says about a config is `pirl.config.kinds.EnvFacts`. Refuses to know any
simulator. Imports neither torch nor NumPy, so that a kind need not. Read `pirl.doors` for how kinds are found
and `pirl.envs.base` for what a slot is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pirl.config.kinds import EnvFacts, env_facts
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from pirl.envs.base import EnvInfo, FrameSettings, SlotSettings
    from pirl.envs.demos import Teacher
    from pirl.envs.split import StateRule
    from pirl.envs.vector import Codec


class EnvKind(EnvFacts):
    """An environment that pirl drives; an entry point of the group `pirl.envs` names an instance."""

    states: int | None = None
    """Initial states of a task; None where a simulator seed is the initial state."""

    @abstractmethod
    def info(self, env_cfg: Any) -> EnvInfo:
        """Facts that hold before any episode runs; starts no simulator.

        Raises:
            ConfigError: unknown task, or a setting that the simulator does not have.
            EnvironmentNotReadyError: its packages or assets are missing.
        """

    @abstractmethod
    def settings(
        self,
        env_cfg: Any,
        *,
        image_keys: Sequence[str],
        frames: FrameSettings | None,
        stock_simulator: bool,
    ) -> SlotSettings:
        """What a worker builds its slots from; it is pickled.

        Args:
            image_keys: the policy's cameras in its order.
            frames: video frames to keep, if any.
            stock_simulator: `runtime.stock_simulator`; for simulators that know a shorter way.
        """

    def codec(self) -> Codec:
        """What stands between slots and policy; a slot's own values are the policy's by default."""
        from pirl.envs.vector import IdentityCodec

        return IdentityCodec()

    def split(self) -> Mapping[str, StateRule]:
        """Training and held-out states by task; `*` is every other task. Ranges of seeds by default."""
        from pirl.envs.split import HELDOUT_SEEDS, TRAIN_SEEDS, StateRule

        return {"*": StateRule(train=TRAIN_SEEDS, heldout=HELDOUT_SEEDS)}

    def place(self, env_cfg: Any) -> str:
        """Simulator, task or suite and time limit, in words: a field of the run's identity."""
        names = "+".join(self.info(env_cfg).task_names)
        return f"{env_cfg.type}/{names}, limit {env_cfg.episode_length}"

    def control_mode(self, env_cfg: Any) -> str:
        """What an action means to the robot, `absolute` or `relative`: a field of the run's identity."""
        del env_cfg
        return "relative"

    def suites(self, task: str | None) -> list[str | None]:
        """The tasks or suites that `env.task` of an evaluation lists; each is judged alone."""
        return [task]

    def evaluation_errors(self, env_cfg: Any) -> list[FieldError]:
        """What an evaluation needs of the config besides its rules."""
        del env_cfg
        return []

    def teacher(
        self,
        env_cfg: Any,
        *,
        image_keys: Sequence[str],
        max_steps: int,
        split_file: str | None,
        noise: float,
        seed: int,
    ) -> Teacher:
        """A simulator with a scripted expert, for demonstrations.

        Raises:
            ConfigError: there is no expert, or not with these settings.
        """
        del image_keys, max_steps, split_file, noise, seed
        wrong = FieldError(
            field="env.type",
            value=env_cfg.type,
            expected="an environment with scripted experts",
            fix="give demonstrations as a data set (learn.warm_start.demos)",
        )
        raise ConfigError([wrong])


def env_kind(env_type: str) -> EnvKind:
    """The kind of an environment type.

    Raises:
        ConfigError: nobody offers one; the message lists those that are there.
    """
    return cast(EnvKind, env_facts(env_type))
