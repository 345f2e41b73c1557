"""One episode of `PointReach` at a time behind pirl's slot: chunks in, one picture at the end of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pirl.envs.base import ChunkResult, EnvObservation, FrameSettings, Slot, SlotPlan
from pirl.envs.gl import require_gl
from pirl.errors import EnvError
from pirl_pointreach.env import SUBSTEPS, PointReach

IMAGE = "observation.images.image"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointReachSettings:
    """What a worker builds its slots from."""

    tasks: tuple[str, ...]
    image_size: int
    limit: int
    """Time limit, control actions."""
    frames: FrameSettings | None

    def make_slots(self, count: int) -> list[Slot]:
        """Slots that share nothing."""
        require_gl()
        return [PointReachSlot(self) for _ in range(count)]


class PointReachSlot:
    """A slot with a scripted expert."""

    def __init__(self, settings: PointReachSettings) -> None:
        self._settings = settings
        self._envs: dict[int, PointReach] = {}
        self._env: PointReach | None = None
        self._state: Any = None
        self._steps = 0
        self._done = True

    def reset(self, plan: SlotPlan) -> EnvObservation:
        """The seed is the initial state."""
        settings = self._settings
        if plan.task_id not in self._envs:
            task = settings.tasks[plan.task_id]
            self._envs[plan.task_id] = PointReach(task, size=settings.image_size)
        self._env = self._envs[plan.task_id]
        seen, _ = self._env.reset(seed=plan.seed)
        self._state, self._steps, self._done = seen["agent_pos"], 0, False
        return self._look(self._env, look=True)

    def step_chunk(self, actions: Any, *, look: bool = True) -> ChunkResult:
        """Run the rows until the chunk or the episode ends."""
        env = self._open()
        if actions.ndim != 2 or actions.shape[1] != 2 or not np.isfinite(actions).all():
            raise EnvError(f"actions of shape {actions.shape}, must be finite [E, 2]")
        start = time.perf_counter()
        rewards = np.zeros(len(actions), dtype=np.float32)
        frames: list[Any] = []
        success, ran = False, 0
        for row in actions:
            seen, rewards[ran], success, _, _ = env.step(row)
            self._state, ran, self._steps = seen["agent_pos"], ran + 1, self._steps + 1
            self._done = success or self._steps >= self._settings.limit
            wanted = self._settings.frames
            is_last = self._done or ran == len(actions)
            if wanted is not None and (is_last or self._steps % wanted.stride == 0):
                frames.append(env.render(wanted.size))
            if self._done:
                break
        stepped = time.perf_counter()
        observation = self._look(env, look=look)
        return ChunkResult(
            observation=observation,
            step_rewards=rewards,
            valid_steps=ran,
            terminated=success,
            truncated=self._done and not success,
            success=success,
            sim_steps=ran * SUBSTEPS,
            frames=tuple(frames),
            timings={"step_s": stepped - start, "render_s": time.perf_counter() - stepped},
        )

    def expert_action(self, *, speed: float = 1.0) -> Any:
        """Straight to the disc, at full speed unless slowed."""
        env = self._open()
        way = env.goal - env.ball
        return (speed * way / max(0.04, float(np.linalg.norm(way)))).astype(np.float32)

    def close(self) -> None:
        """Free the renderers."""
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _open(self) -> PointReach:
        if self._env is None or self._done:
            raise EnvError("no episode is open in this slot: call reset first")
        return self._env

    def _look(self, env: PointReach, *, look: bool) -> EnvObservation:
        picture = {IMAGE: np.ascontiguousarray(env.render().transpose(2, 0, 1))} if look else {}
        return EnvObservation(images=picture, state=self._state)
