"""The embedded MetaWorld as a kind of environment.

Owns nothing but the answers' places. Imports neither MuJoCo nor torch before it is asked for a simulator. Read
`pirl.envs.metaworld_config` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, final

from pirl.config.kinds import EnvTemplate, fitting_cameras
from pirl.config.lerobot_fields import PiRLMetaWorldEnvConfig
from pirl.config.view import View
from pirl.envs import metaworld_rules
from pirl.envs.kinds import EnvKind, SimulatorFacts, folder_digest, package_folder

if TYPE_CHECKING:
    from pirl.envs.base import EnvInfo, FrameSettings
    from pirl.envs.demos import Teacher
    from pirl.envs.metaworld import MetaWorldSettings


_CAMERA = "observation.images.image"
_SIMULATOR_GIB = 0.4
"""One actor took 1.6 GiB with two simulators of MetaWorld, a learner 1.0."""


@final
class MetaWorldKind(EnvKind):
    """pirl's own `pirl_metaworld`."""

    rules = metaworld_rules.RULES

    def config_class(self) -> type:
        """`PiRLMetaWorldEnvConfig`."""
        from pirl.config.train import PiRLMetaWorldEnvConfig

        return PiRLMetaWorldEnvConfig

    def cameras(self, view: View) -> list[str]:
        """There is one."""
        del view
        return [_CAMERA]

    def template(self, *, cameras: Sequence[str], picture: tuple[int, int]) -> EnvTemplate:
        """The defaults of its config class, and pictures as the policy wants them."""
        usual = PiRLMetaWorldEnvConfig()
        return EnvTemplate(
            env=[
                ("image_size", picture[0], "as the policy's camera feature"),
                (
                    "action_repeat",
                    usual.action_repeat,
                    "simulator steps per action, as the policy was trained",
                ),
                ("episode_length", usual.episode_length, "time limit in simulator steps"),
            ],
            control_steps=-(-usual.episode_length // usual.action_repeat),
            simulator_gib=_SIMULATOR_GIB,
            seen=fitting_cameras(cameras, [_CAMERA]),
        )

    def facts(self, env_cfg: Any) -> SimulatorFacts:
        """Every file of the package's assets."""
        del env_cfg
        return SimulatorFacts(
            name="MetaWorld",
            version=version("metaworld"),
            assets={
                "source": "the package metaworld",
                "sha256": folder_digest(package_folder("metaworld") / "assets"),
            },
        )

    def misled(self, env_cfg: Any) -> Any:
        """By `instruction_shift`."""
        changed = deepcopy(env_cfg)
        changed.instruction_shift = 1
        return changed

    def info(self, env_cfg: Any) -> EnvInfo:
        """See `pirl.envs.metaworld_config.metaworld_info`."""
        from pirl.envs.metaworld_config import metaworld_info

        return metaworld_info(env_cfg)

    def settings(
        self,
        env_cfg: Any,
        *,
        image_keys: Sequence[str],
        frames: FrameSettings | None,
        stock_simulator: bool,
    ) -> MetaWorldSettings:
        """See `pirl.envs.metaworld_config.metaworld_settings`."""
        from pirl.envs.metaworld_config import metaworld_settings

        del stock_simulator
        return metaworld_settings(env_cfg, image_keys=image_keys, frames=frames)

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
        """One simulator and MetaWorld's scripted experts; seeds outside every split."""
        from pirl.envs.demos import Teacher, seeded_plans
        from pirl.envs.metaworld import MAX_SIM_STEPS, MetaWorldSlot
        from pirl.envs.metaworld_config import metaworld_settings

        del split_file, noise
        settings = replace(
            metaworld_settings(env_cfg, image_keys=image_keys),
            episode_length=min(max_steps, MAX_SIM_STEPS),
            episode_lengths=None,
        )
        info = self.info(env_cfg)
        (slot,) = settings.make_slots(1)
        assert isinstance(slot, MetaWorldSlot)
        return Teacher(slot=slot, info=info, codec=self.codec(), plan=seeded_plans(info, seed=seed))


KIND = MetaWorldKind()
