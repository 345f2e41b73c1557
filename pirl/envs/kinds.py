"""A kind of environment: everything that pirl asks of a simulator before and while it runs one.

Owns the abstract class; what it says about a config is `pirl.config.kinds.EnvFacts`. Refuses to know any
simulator. Imports neither torch nor NumPy, so that a kind need not. Read `pirl.doors` for how kinds are found
and `pirl.envs.base` for what a slot is.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pirl import doors
from pirl.config.kinds import EnvFacts, env_facts
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError
from pirl.journal.fields import file_sha256

if TYPE_CHECKING:
    from pirl.envs.base import EnvInfo, FrameSettings, SlotSettings
    from pirl.envs.demos import Teacher
    from pirl.envs.split import StateRule
    from pirl.envs.vector import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorFacts:
    """What evidence says of a simulator besides its tasks and split."""

    name: str
    version: str
    """Of its package."""
    assets: Mapping[str, str]
    """`source`: where they came from; `git_tree` or `sha256`: of all their files."""
    states: Mapping[str, str] = field(default_factory=lambda: {})
    """File of initial states to its SHA-256."""


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

    def facts(self, env_cfg: Any) -> SimulatorFacts:
        """Package and assets, for evidence; by default every file of the package that the kind lives in.

        Raises:
            EnvironmentNotReadyError: assets are missing, or not those that they should be.
        """
        package = type(self).__module__.partition(".")[0]
        return SimulatorFacts(
            name=env_cfg.type,
            version=doors.origin(doors.ENVS, env_cfg.type),
            assets={
                "source": f"the package {package}",
                "sha256": folder_digest(package_folder(package)),
            },
        )

    def misled(self, env_cfg: Any) -> Any:
        """The same tasks, each told the next one's instruction; None where that cannot be asked for."""
        del env_cfg

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


def package_folder(package: str) -> Path:
    """The folder of an installed package; runs none of its code."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentNotReadyError(
            f"the package {package} is not installed", remedy=f"install {package}"
        )
    return Path(spec.submodule_search_locations[0])


def folder_digest(folder: Path) -> str:
    """SHA-256 over relative path and content of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def env_kind(env_type: str) -> EnvKind:
    """The kind of an environment type.

    Raises:
        ConfigError: nobody offers one; the message lists those that are there.
    """
    return cast(EnvKind, env_facts(env_type))
