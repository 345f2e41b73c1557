"""LIBERO tasks as LeRobot's `LiberoEnv` runs them, drawn only at chunk boundaries.

Owns one slot of LIBERO simulation and its settings. Refuses to know policies and processes: what a
slot returns is raw, and `pirl.envs.libero_config` turns it into what X-VLA sees. Read
`pirl.envs.libero_env` next.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from pirl.envs.base import (
    Array,
    ChunkResult,
    EnvObservation,
    FrameSettings,
    Slot,
    SlotPlan,
)
from pirl.envs.gl import require_gl
from pirl.envs.libero_assets import use_assets
from pirl.envs.libero_expert import LiberoExpert, way_points
from pirl.envs.libero_setup import prepare_config
from pirl.envs.pool import Pool
from pirl.errors import EnvError

if TYPE_CHECKING:
    from pirl.envs.libero_env import LiberoSim

ACTION_WIDTH = 7
"""End-effector position (3), axis-angle (3), gripper -1 open or 1 closed."""
RAW_STATE_WIDTH = 12
"""End-effector position (3) and rotation matrix (9, row by row)."""
SETTLE_STEPS = 10
"""No-op steps of a reset, as in `LiberoEnv`, before the policy acts."""
HORIZON = 1000
"""robosuite refuses to step on after this many steps, settling included."""
_IDLE_ENVS = 1
"""Simulators kept for task switches, per worker; each holds several hundred MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoTask:
    """One task of one suite."""

    suite: str
    suite_task_id: int
    max_steps: int
    """Time limit in control steps."""

    @property
    def name(self) -> str:
        """`libero_10/3`."""
        return f"{self.suite}/{self.suite_task_id}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiberoScene:
    """Where a task's simulator comes from; read where LeRobot and torch are loaded anyway."""

    bddl_file: str
    init_states: Float64[Array, "N S"]
    """Flattened states of MuJoCo: time, positions, velocities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoSettings:
    """What a worker needs to build LIBERO slots."""

    tasks: tuple[LiberoTask, ...]
    cameras: Mapping[str, str]
    """robosuite camera by observation key, for the cameras the policy looks through."""
    scenes: tuple[LiberoScene, ...]
    """By task id."""
    options: Mapping[str, Any]
    """See `pirl.envs.libero_env.LiberoSim`."""
    assets: str
    frames: FrameSettings | None = None

    def make_slots(self, count: int) -> list[Slot]:
        """`count` slots that share idle simulators."""
        require_gl()
        prepare_config()
        use_assets(Path(self.assets))
        pool = Pool(self._build, idle=_IDLE_ENVS)
        return [LiberoSlot(self, pool) for _ in range(count)]

    def _build(self, task_id: int) -> LiberoSim:
        from pirl.envs.libero_env import LiberoSim

        scene, cameras = self.scenes[task_id], tuple(self.cameras.values())
        return LiberoSim(scene, cameras=cameras, options=self.options)


class LiberoSlot:
    """One LIBERO episode at a time."""

    def __init__(self, settings: LiberoSettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._env: Any = None
        self._plan: SlotPlan | None = None
        self._expert: LiberoExpert | None = None
        self._steps = 0
        self._done = True

    def reset(self, plan: SlotPlan) -> EnvObservation:
        """Start the episode of `plan`; the observation is raw.

        Raises:
            EnvError: the task has no such initial state.
        """
        if self._plan is None or self._plan.task_id != plan.task_id:
            self._return_env()
            self._env = self._pool.take(plan.task_id)
        self._plan = plan
        count = self._env.num_init_states
        if not 0 <= plan.init_state_id < count:
            raise EnvError(
                f"initial state {plan.init_state_id} of {self._settings.tasks[plan.task_id].name}"
                f" does not exist; there are {count}"
            )
        self._env.reset(init_state_id=plan.init_state_id, seed=plan.seed)
        self._expert = None
        self._steps = 0
        self._done = False
        return self._observe()

    def step_chunk(self, actions: Float32[Array, "E 7"], *, look: bool = True) -> ChunkResult:
        """Execute the rows until the chunk ends, the task is solved or the time is up; no pictures unless `look`.

        Raises:
            EnvError: no episode is open, or an action is malformed.
        """
        self._check(actions)
        assert self._plan is not None
        limit = self._settings.tasks[self._plan.task_id].max_steps
        start = time.perf_counter()
        rewards = np.zeros(len(actions), dtype=np.float32)
        frames: list[UInt8[Array, "h w 3"]] = []
        success, valid = False, 0
        for row in actions:
            success = self._env.step(row)
            rewards[valid] = float(success)
            valid += 1
            self._steps += 1
            self._done = success or self._steps >= limit
            self._film(frames, last=self._done or valid == len(actions))
            if self._done:
                break
        stepped = time.perf_counter()
        observation = self._observe(look=look)
        return ChunkResult(
            observation=observation,
            step_rewards=rewards,
            valid_steps=valid,
            terminated=success,
            truncated=self._done and not success,
            success=success,
            sim_steps=valid,
            frames=tuple(frames),
            timings={"step_s": stepped - start, "render_s": time.perf_counter() - stepped},
        )

    def expert_action(self, *, speed: float = 1.0) -> Float32[Array, " 7"]:
        """What the scripted expert of the task commands now; call it from the first step of an episode on.

        Raises:
            EnvError: no episode is open, or the task has no expert.
        """
        if self._plan is None or self._done:
            raise EnvError("no LIBERO episode is open in this slot")
        if self._expert is None:
            phases = way_points(self._settings.tasks[self._plan.task_id].name)
            self._expert = LiberoExpert(self._env.sim, phases, speed=speed)
        return self._expert.action().astype(np.float32)

    def close(self) -> None:
        """Free the simulator and the idle ones."""
        self._return_env()
        self._plan = None
        self._pool.close()

    def _observe(self, *, look: bool = True) -> EnvObservation:
        position, rotation = self._env.pose
        return EnvObservation(
            images={
                key: np.ascontiguousarray(self._env.draw(camera).transpose(2, 0, 1))
                for key, camera in self._settings.cameras.items()
                if look
            },
            state=np.concatenate([position, np.ravel(rotation)]).astype(np.float32),
        )

    def _film(self, frames: list[UInt8[Array, "h w 3"]], *, last: bool) -> None:
        wanted = self._settings.frames
        if wanted is not None and (last or self._steps % wanted.stride == 0):
            camera = next(iter(self._settings.cameras.values()))
            # LIBERO's pictures are upside down; LeRobot turns its videos the same way.
            frames.append(np.ascontiguousarray(self._env.draw(camera)[::-1, ::-1]))

    def _check(self, actions: Float32[Array, "E 7"]) -> None:
        if self._done:
            raise EnvError("step_chunk without an open episode: call reset first")
        if actions.ndim != 2 or actions.shape[1] != ACTION_WIDTH or len(actions) == 0:
            raise EnvError(f"actions have shape {actions.shape}, expected [E, {ACTION_WIDTH}]")
        if not np.isfinite(actions).all():
            raise EnvError("an action is not finite")

    def _return_env(self) -> None:
        if self._env is not None and self._plan is not None:
            self._pool.give(self._plan.task_id, self._env)
        self._env = None
