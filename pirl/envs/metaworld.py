"""MetaWorld tasks, rendered only when the policy looks and as cheaply as the pictures allow.

Owns one slot of MetaWorld simulation: seeding, action repeat, time limit, rendering, scripted
expert. Refuses to know policies, processes and torch. Read `pirl.envs.demos` next.

Why not LeRobot's `MetaworldEnv`: it renders at every simulator step, at 480 px, with 4096 px shadow
maps (about 100 ms a step in software) and resets itself on success.
"""

from __future__ import annotations

import importlib
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from pirl.envs.base import Array, ChunkResult, EnvObservation, FrameSettings, Slot, SlotPlan
from pirl.envs.gl import require_gl
from pirl.envs.pool import Pool
from pirl.errors import EnvError, EnvironmentNotReadyError

ACTION_WIDTH = 4
"""xyz displacement and gripper effort, each in [-1, 1]."""
STATE_WIDTH = 4
"""Hand xyz in metres and gripper opening in [0, 1]."""
MAX_SIM_STEPS = 500
"""MetaWorld's own horizon; stepping past it is an error there."""
_CORNER2_POSITION = (0.75, 0.075, 0.7)
"""Where LeRobot's `MetaworldEnv` puts this camera: nearer, so the task fills the picture."""
_UPSIDE_DOWN = ("corner", "corner2")
"""Cameras that MetaWorld's models hang upside down; LeRobot turns `corner2` by 180 degrees too."""
_IDLE_ENVS = 2
"""Simulators kept for task switches, per worker; each holds 80-150 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaWorldSettings:
    """What a worker needs to build MetaWorld slots."""

    task_names: tuple[str, ...]
    image_keys: tuple[str, ...]
    """One key per camera of `cameras`."""
    cameras: tuple[str, ...] = ("corner2",)
    image_size: int = 64
    action_repeat: int = 5
    """Simulator steps (80 Hz) per control action."""
    episode_length: int = 95
    """Time limit in simulator steps."""
    episode_lengths: tuple[int, ...] | None = None
    """Time limits by task id; null means `episode_length` for every task."""
    show_goal: bool = True
    """False draws no site: MetaWorld's goal markers are sites, everything solid is not."""
    shared_layouts: bool = False
    """Every task draws its layout from the range of the first one."""
    frames: FrameSettings | None = None

    def limit(self, task_id: int) -> int:
        """Time limit of a task in simulator steps."""
        return (
            self.episode_length if self.episode_lengths is None else self.episode_lengths[task_id]
        )

    def make_slots(self, count: int) -> list[Slot]:
        """`count` slots that share idle simulators and one renderer per task."""
        mujoco = require_gl()
        studio = _Studio(mujoco, self)
        pool = Pool(self._build, idle=_IDLE_ENVS)
        return [MetaWorldSlot(self, pool, studio) for _ in range(count)]

    def _build(self, task_id: int) -> Any:
        env = build_env(self.task_names[task_id])
        if self.shared_layouts and task_id > 0:
            share_layouts(env, build_env(self.task_names[0]))
        return env


def build_env(task: str) -> Any:
    """A seedable MetaWorld simulator of `task` whose observation shows the goal to the expert."""
    try:
        tasks: Any = importlib.import_module("metaworld.env_dict")
    except ImportError as error:
        raise EnvironmentNotReadyError(
            f"MetaWorld cannot be imported: {error}", remedy="pip install 'pirl[metaworld]'"
        ) from error
    kind: Any = tasks.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE.get(f"{task}-goal-observable")
    if kind is None:
        raise EnvError(f"MetaWorld has no task {task!r}")
    env: Any = kind(seed=0)
    # MetaWorld has no public switch for this: frozen means every reset repeats the first layout.
    env._freeze_rand_vec = False  # noqa: SLF001
    env.seeded_rand_vec = True
    # Shadow map (4096 px) and multisampling are nine tenths of the render time in software GL. Both
    # are read once, when the first renderer is made.
    env.model.vis.quality.shadowsize = 0
    env.model.vis.quality.offsamples = 0
    env.model.camera("corner2").pos[:] = _CORNER2_POSITION
    return env


def share_layouts(env: Any, first: Any) -> None:
    """Let `env` draw its layouts from the range of `first`.

    Raises:
        EnvError: the two are not tasks of one scene.
    """
    if env.model_name != first.model_name:
        raise EnvError(
            f"env.shared_layouts needs tasks of one scene: {type(env).__name__} uses another than"
            f" {type(first).__name__}"
        )
    # MetaWorld has no public switch for this either.
    env._random_reset_space = first._random_reset_space  # noqa: SLF001


def show_target(env: Any) -> None:
    """Put the goal marker where the goal is: MetaWorld moves it inside `step()` only."""
    for name, position in env._target_site_config:  # noqa: SLF001
        env.data.site(name).xpos[:] = np.asarray(position, dtype=np.float64)[:3]


class _Studio:
    """One renderer per task and picture size, shared by the slots of a process."""

    def __init__(self, mujoco: Any, settings: MetaWorldSettings) -> None:
        self._mujoco = mujoco
        self._settings = settings
        self._renderers: dict[tuple[int, int], Any] = {}

    def images(self, task_id: int, env: Any) -> dict[str, UInt8[Array, "3 h w"]]:
        """The observation images of `env`, by key."""
        self._prepare(env)
        size = self._settings.image_size
        return {
            key: np.ascontiguousarray(self._shoot(task_id, env, camera, size).transpose(2, 0, 1))
            for key, camera in zip(self._settings.image_keys, self._settings.cameras, strict=True)
        }

    def frame(self, task_id: int, env: Any, size: int) -> UInt8[Array, "h w 3"]:
        """A video frame from the first camera."""
        self._prepare(env)
        return self._shoot(task_id, env, self._settings.cameras[0], size)

    def _prepare(self, env: Any) -> None:
        if self._settings.show_goal:
            show_target(env)

    def _shoot(self, task_id: int, env: Any, camera: str, size: int) -> UInt8[Array, "h w 3"]:
        renderer = self._renderer(task_id, env, size)
        view = self._mujoco.MjvCamera()
        view.type = self._mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = env.model.camera(camera).id
        # The scene is built from this env's own model; only textures and meshes, equal for all
        # simulators of a task, come from the shared context.
        option = self._mujoco.MjvOption()
        if not self._settings.show_goal:
            option.sitegroup[:] = 0
        self._mujoco.mjv_updateScene(
            env.model,
            env.data,
            option,
            self._mujoco.MjvPerturb(),
            view,
            self._mujoco.mjtCatBit.mjCAT_ALL,
            renderer.scene,
        )
        picture = renderer.render()
        turned = picture[::-1, ::-1] if camera in _UPSIDE_DOWN else picture
        return np.ascontiguousarray(turned)

    def _renderer(self, task_id: int, env: Any, size: int) -> Any:
        if (task_id, size) not in self._renderers:
            # Clearing and reading a larger buffer costs a fifth of the render time; same pixels.
            env.model.vis.global_.offwidth = env.model.vis.global_.offheight = size
            renderer = self._mujoco.Renderer(env.model, size, size)
            flags = self._mujoco.mjtRndFlag
            for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX):
                renderer.scene.flags[flag] = 0
            self._renderers[task_id, size] = renderer
        return self._renderers[task_id, size]

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


class MetaWorldSlot:
    """One MetaWorld episode at a time. `EpisodePlan.seed` alone fixes layout and physics."""

    def __init__(self, settings: MetaWorldSettings, pool: Pool, studio: _Studio) -> None:
        self._settings = settings
        self._pool = pool
        self._studio = studio
        self._env: Any = None
        self._plan: SlotPlan | None = None
        self._expert: Any = None
        self._raw = np.zeros(0)
        self._sim_steps = 0
        self._actions = 0
        self._done = True
        self._limit = 0

    def reset(self, plan: SlotPlan) -> EnvObservation:
        """Start the episode of `plan`.

        Raises:
            EnvError: `init_state_id` differs from `seed` (here the seed is the initial state).
        """
        if plan.init_state_id != plan.seed:
            raise EnvError(
                f"MetaWorld seeds are the initial states: init_state_id {plan.init_state_id} and"
                f" seed {plan.seed} must be equal"
            )
        if self._plan is None or self._plan.task_id != plan.task_id:
            self._return_env()
            self._env = self._pool.take(plan.task_id)
            self._expert = None
        self._plan = plan
        self._limit = self._settings.limit(plan.task_id)
        self._env.seed(plan.seed)
        self._raw, _ = self._env.reset()
        self._sim_steps = self._actions = 0
        self._done = False
        if not self._settings.show_goal:
            # Some tasks only forward the physics after placing their object; the rest would look different.
            importlib.import_module("mujoco").mj_forward(self._env.model, self._env.data)
            self._raw = self._env._get_obs()  # noqa: SLF001
        return self._observe()

    def step_chunk(self, actions: Float32[Array, "E 4"], *, look: bool = True) -> ChunkResult:
        """Execute the rows, each for `action_repeat` simulator steps, clipped to [-1, 1].

        Without `look` the observation has no picture.

        Raises:
            EnvError: no episode is open, an action is malformed, or the physics diverged.
        """
        self._check(actions)
        start = time.perf_counter()
        before = self._sim_steps
        rewards = np.zeros(len(actions), dtype=np.float32)
        frames: list[UInt8[Array, "h w 3"]] = []
        success, valid = False, 0
        for row in np.clip(actions, -1.0, 1.0):
            success = self._act(row)
            rewards[valid] = float(success)
            valid += 1
            self._done = success or self._sim_steps >= self._limit
            last = self._done or valid == len(actions)
            self._film(frames, last=last)
            if self._done:
                break
        self._check_physics()
        stepped = time.perf_counter()
        observation = self._observe(look=look)
        return ChunkResult(
            observation=observation,
            step_rewards=rewards,
            valid_steps=valid,
            terminated=success,
            truncated=self._done and not success,
            success=success,
            sim_steps=self._sim_steps - before,
            frames=tuple(frames),
            timings={"step_s": stepped - start, "render_s": time.perf_counter() - stepped},
        )

    def expert_action(self, *, speed: float = 1.0) -> Float32[Array, " 4"]:
        """What MetaWorld's scripted expert does now, clipped to [-1, 1], its xyz part scaled by `speed`."""
        if self._plan is None or self._done:
            raise EnvError("no MetaWorld episode is open in this slot")
        if self._expert is None:
            from metaworld.policies import ENV_POLICY_MAP

            self._expert = ENV_POLICY_MAP[self._settings.task_names[self._plan.task_id]]()
        with warnings.catch_warnings():
            # The experts warn at every call that their gain exceeds the range clipped here.
            warnings.filterwarnings("ignore", message="Constant")
            action = self._expert.get_action(self._raw)
        row = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0).astype(np.float32)
        row[:3] *= speed
        return row

    def close(self) -> None:
        """Free the simulator and the shared renderers."""
        self._return_env()
        self._plan = None
        self._pool.close()
        self._studio.close()

    def _act(self, row: Float32[Array, " 4"]) -> bool:
        self._actions += 1
        for _ in range(self._settings.action_repeat):
            self._raw, _, _, _, facts = self._env.step(row)
            self._sim_steps += 1
            if facts["success"] > 0:
                return True
            if self._sim_steps >= self._limit:
                break
        return False

    def _observe(self, *, look: bool = True) -> EnvObservation:
        assert self._plan is not None
        return EnvObservation(
            images=self._studio.images(self._plan.task_id, self._env) if look else {},
            state=self._raw[:STATE_WIDTH].astype(np.float32),
        )

    def _film(self, frames: list[UInt8[Array, "h w 3"]], *, last: bool) -> None:
        wanted = self._settings.frames
        if wanted is not None and (last or self._actions % wanted.stride == 0):
            assert self._plan is not None
            frames.append(self._studio.frame(self._plan.task_id, self._env, wanted.size))

    def _check(self, actions: Float32[Array, "E 4"]) -> None:
        if self._done:
            raise EnvError("step_chunk without an open episode: call reset first")
        if actions.ndim != 2 or actions.shape[1] != ACTION_WIDTH or len(actions) == 0:
            raise EnvError(f"actions have shape {actions.shape}, expected [E, {ACTION_WIDTH}]")
        if not np.isfinite(actions).all():
            raise EnvError("an action is not finite")

    def _check_physics(self) -> None:
        # MuJoCo answers divergence by a silent reset and a counter.
        counters = self._env.data.warning
        kinds: Any = importlib.import_module("mujoco").mjtWarning
        bad = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
        if any(counters[int(kind)].number for kind in bad):
            raise EnvError("the physics diverged (MuJoCo reported a bad position or velocity)")

    def _return_env(self) -> None:
        if self._env is not None and self._plan is not None:
            self._pool.give(self._plan.task_id, self._env)
        self._env = None
