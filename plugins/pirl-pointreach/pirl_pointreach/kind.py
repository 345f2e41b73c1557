"""`pointreach` as a kind of environment: rules, facts, slots and a teacher. Imports no simulator by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from pirl.config.kinds import EnvTemplate, action_of
from pirl.config.view import View
from pirl.envs.kinds import EnvKind
from pirl.errors import FieldError

if TYPE_CHECKING:
    from pirl.envs.base import EnvInfo, FrameSettings
    from pirl.envs.demos import Teacher
    from pirl_pointreach.slot import PointReachSettings

KNOWN = ("reach-red", "reach-blue")
"""Tasks; the environment's own table, which a test compares, imports MuJoCo."""


def check_pointreach(view: View) -> Iterator[FieldError]:
    """Known tasks, a sane picture and limit, and a policy of two numbers."""
    names = [view.text("env.task"), *(view.items("env.tasks") or [])]
    for name in names:
        if isinstance(name, str) and name not in KNOWN:
            yield _wrong("env.task", name, f"one of {', '.join(KNOWN)}", "set env.task=reach-red")
    action = action_of(view)
    if action and action.space and (action.space, action.width) != ("auto", 2):
        found = f"{action.space} of width {action.width}"
        yield _wrong(action.field, found, "auto of width 2: x and y", "use a policy of 2 numbers")


@final
class PointReachKind(EnvKind):
    """A ball, two discs, two tasks."""

    rules = (check_pointreach,)

    def config_class(self) -> type:
        """`PointReachConfig`."""
        from pirl_pointreach.config import PointReachConfig

        return PointReachConfig

    def cameras(self, view: View) -> list[str]:
        """One, from above."""
        del view
        return ["observation.images.image"]

    def template(self, *, cameras: Sequence[str], picture: tuple[int, int]) -> EnvTemplate:
        """As the kinds without a template, and pictures as the policy wants them; MuJoCo alone is small."""
        usual = super().template(cameras=cameras, picture=picture)
        size = ("image_size", picture[0], "as the policy's camera feature")
        return replace(usual, env=[*usual.env, size], simulator_gib=0.3)

    def info(self, env_cfg: Any) -> EnvInfo:
        """Facts that hold before any episode runs."""
        from pirl.envs.base import EnvInfo
        from pirl_pointreach.env import SUBSTEPS, TASKS
        from pirl_pointreach.slot import IMAGE

        names = tuple(env_cfg.tasks or [env_cfg.task])
        return EnvInfo(
            kind="pointreach",
            task_names=names,
            instructions=tuple(TASKS[name] for name in names),
            action_width=2,
            state_width=4,
            image_shapes={IMAGE: (3, env_cfg.image_size, env_cfg.image_size)},
            max_control_steps=dict.fromkeys(range(len(names)), env_cfg.episode_length),
            sim_steps_per_action=SUBSTEPS,
            reset_mode="seeded",
        )

    def settings(
        self,
        env_cfg: Any,
        *,
        image_keys: Sequence[str],
        frames: FrameSettings | None,
        stock_simulator: bool,
    ) -> PointReachSettings:
        """What a worker builds its slots from."""
        from pirl_pointreach.slot import PointReachSettings

        del image_keys, stock_simulator
        return PointReachSettings(
            tasks=tuple(env_cfg.tasks or [env_cfg.task]),
            image_size=env_cfg.image_size,
            limit=env_cfg.episode_length,
            frames=frames,
        )

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
        """A straight line, from seeds that no split contains; it may take longer than a policy."""
        from pirl.envs.demos import Teacher, seeded_plans
        from pirl_pointreach.env import SUBSTEPS
        from pirl_pointreach.slot import PointReachSlot

        del split_file, noise
        settings = replace(
            self.settings(env_cfg, image_keys=image_keys, frames=None, stock_simulator=False),
            limit=max_steps // SUBSTEPS,
        )
        info = self.info(env_cfg)
        return Teacher(
            slot=PointReachSlot(settings),
            info=info,
            codec=self.codec(),
            plan=seeded_plans(info, seed=seed),
        )


def _wrong(field: str, value: object, expected: str, fix: str) -> FieldError:
    return FieldError(field=field, value=value, expected=expected, fix=fix)


KIND = PointReachKind()
