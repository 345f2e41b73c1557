"""LIBERO as a kind of environment.

Owns nothing but the answers' places. Imports neither LIBERO nor torch before it is asked for a simulator. Read
`pirl.envs.libero_config` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, final

from pirl.config.kinds import IMAGE_PREFIX, EnvTemplate, Row, fitting_cameras
from pirl.config.view import View
from pirl.envs import libero_rules
from pirl.envs.kinds import EnvKind, SimulatorFacts
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from pirl.envs.base import EnvInfo, FrameSettings, SlotPlan
    from pirl.envs.demos import Teacher
    from pirl.envs.libero import LiberoSettings
    from pirl.envs.libero_config import LiberoCodec
    from pirl.envs.split import StateRule

LIBERO_STATES = 50
"""Initial states that LIBERO ships per task."""

_SIMULATOR_GIB = 2.6
"""One actor took 3.5 GiB with one simulator of LIBERO, a learner 1.0; `system/rss_mib` shows the real one."""

_MOST_NOISE_M = 0.05
"""An expert that is thrown further than this at every step does not recover."""


@final
class LiberoKind(EnvKind):
    """LeRobot's `libero`."""

    rules = libero_rules.RULES
    states: int | None = LIBERO_STATES

    def config_class(self) -> type:
        """LeRobot's `LiberoEnv` config."""
        from lerobot.envs.configs import LiberoEnv

        return LiberoEnv

    def cameras(self, view: View) -> list[str]:
        """By LIBERO's names, or by those that the config maps them to."""
        return libero_rules.cameras(view)

    def template(self, *, cameras: Sequence[str], picture: tuple[int, int]) -> EnvTemplate:
        """As X-VLA needs it; cameras of other names are taken by their order, and that is said."""
        rows: list[Row] = [
            ("task_ids", None, "every task; [0, 1] takes two of them"),
            (
                "control_mode",
                libero_rules.CONTROL_MODE,
                "ee6d actions are poses, not displacements",
            ),
            (
                "episode_length",
                libero_rules.EPISODE_LENGTH,
                "control steps; LeRobot's own limits are too short for X-VLA",
            ),
            ("observation_height", picture[0], "as the policy's camera features"),
            ("observation_width", picture[1], ""),
        ]
        notes: list[str] = []
        usual = libero_rules.USUAL_CAMERAS
        seen = fitting_cameras(cameras, usual)
        if not {*seen} <= {*usual}:
            names = [c.removeprefix(IMAGE_PREFIX) for c in seen]
            mapping = dict(zip(libero_rules.LIBERO_CAMERAS, names, strict=False))
            told = "by order, a guess: agent view first, wrist second?"
            rows.append(("camera_name_mapping", mapping, told))
            notes.append(
                f"the cameras {', '.join(names)} were taken for agent view and wrist by their order;"
                " look at env.camera_name_mapping"
            )
        return EnvTemplate(
            env=rows,
            control_steps=libero_rules.EPISODE_LENGTH,
            simulator_gib=_SIMULATOR_GIB,
            pirl=[("executed_dims", list(range(10)), "the first arm of ee6d; LIBERO has one")],
            seen=seen,
            notes=notes,
        )

    def facts(self, env_cfg: Any) -> SimulatorFacts:
        """Digests of the suite's initial states; every file of the assets is compared with LIBERO's own."""
        from pirl.envs.libero_assets import find_assets
        from pirl.envs.libero_setup import init_state_files
        from pirl.journal.fields import file_sha256

        found = find_assets()
        return SimulatorFacts(
            name="LIBERO",
            version=version("hf-libero"),
            assets={"source": found.source, "git_tree": found.tree},
            states={f.name: file_sha256(f) for f in init_state_files(str(env_cfg.task))},
        )

    def name_cameras(self, view: View, cameras: Sequence[str]) -> str:
        """By LIBERO's map of them."""
        return libero_rules.name_cameras(view, cameras)

    def info(self, env_cfg: Any) -> EnvInfo:
        """See `pirl.envs.libero_config.libero_info`."""
        from pirl.envs.libero_config import libero_info

        return libero_info(env_cfg)

    def settings(
        self,
        env_cfg: Any,
        *,
        image_keys: Sequence[str],
        frames: FrameSettings | None,
        stock_simulator: bool,
    ) -> LiberoSettings:
        """See `pirl.envs.libero_config.libero_settings`."""
        from pirl.envs.libero_config import libero_settings

        return libero_settings(
            env_cfg, image_keys=image_keys, frames=frames, stock_simulator=stock_simulator
        )

    def codec(self) -> LiberoCodec:
        """The ee6d view of LIBERO."""
        from pirl.envs.libero_config import libero_codec

        return libero_codec()

    def split(self) -> Mapping[str, StateRule]:
        """LIBERO ships 50 initial states per task: 0-39 train, 40-49 are held out."""
        from pirl.envs.split import StateRule

        return {"*": StateRule(train=range(40), heldout=range(40, LIBERO_STATES))}

    def place(self, env_cfg: Any) -> str:
        """Suite, chosen tasks and time limit."""
        chosen = "" if env_cfg.task_ids is None else f" tasks {env_cfg.task_ids}"
        return f"libero/{env_cfg.task}{chosen}, limit {env_cfg.episode_length}"

    def control_mode(self, env_cfg: Any) -> str:
        """As the config says."""
        return str(env_cfg.control_mode)

    def suites(self, task: str | None) -> list[str | None]:
        """`env.task` may list several suites; training knows one."""
        return [name.strip() for name in str(task).split(",")]

    def evaluation_errors(self, env_cfg: Any) -> list[FieldError]:
        """A time limit must be given."""
        if env_cfg.episode_length is not None:
            return []
        wrong = FieldError(
            field="env.episode_length",
            value=None,
            expected="the time limit in control steps; LeRobot's limits per suite are shorter than X-VLA needs",
            fix="pass --env.episode_length=800",
        )
        return [wrong]

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
        """One simulator and the experts of `pirl.envs.libero_expert`."""
        from pirl.envs.base import SlotPlan
        from pirl.envs.demos import Teacher
        from pirl.envs.libero import LiberoSlot
        from pirl.envs.libero_config import libero_codec, libero_settings
        from pirl.envs.libero_expert import policy_row, way_points
        from pirl.envs.schedule import stream_seed
        from pirl.envs.split import load_split

        info = self.info(env_cfg)
        split = load_split(env_cfg.type, mode="train", split_file=split_file)
        found = libero_settings(env_cfg, image_keys=image_keys)
        libero = replace(found, tasks=tuple(replace(t, max_steps=max_steps) for t in found.tasks))
        for task in info.task_names:
            way_points(task)
        if noise > _MOST_NOISE_M:
            error = FieldError(
                field="learn.warm_start.noise",
                value=noise,
                expected=f"at most {_MOST_NOISE_M} metres: LIBERO's actions are positions",
                fix="use --params configs/learn_libero.yaml, or set it there",
            )
            raise ConfigError([error])

        def listed(task_id: int, number: int) -> SlotPlan:
            task = info.task_names[task_id]
            place = stream_seed(seed, "demo", task) + number
            drawn = stream_seed(seed, "demo-simulator", task, number) % 2**31
            state = split.state(task, place % split.count(task))
            return SlotPlan(task_id=task_id, init_state_id=state, seed=drawn)

        (slot,) = libero.make_slots(1)
        assert isinstance(slot, LiberoSlot)
        return Teacher(
            slot=slot, info=info, codec=libero_codec(), policy_row=policy_row, plan=listed
        )


KIND = LiberoKind()
