"""LeRobot's `LiberoEnv` with cameras that draw only when asked, and then the very same pixels.

Owns the lazy cameras. Import it only after `pirl.envs.libero_setup.prepare_config`: importing
LeRobot's module imports LIBERO. Read `pirl.envs.libero` next.

robosuite's cameras are observables that sample once per control period, at a phase of their own,
and from the derived positions that `mj_step` leaves behind, which lag the joint positions by one
physics step. A picture taken later is a different picture. So a lazy camera stores, at the sampling
moment, a copy of the simulator data and of the colours that LIBERO's objects change, and draws that
copy when the policy looks.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lerobot.envs.libero import LiberoEnv
from robosuite.utils.observables import sensor

from pirl.envs.base import Array
from pirl.envs.libero_setup import quiet_stdout

# Imported by name because MuJoCo's stubs lack most of its binding.
mujoco: Any = importlib.import_module("mujoco")


class LazyCameraEnv:
    """robosuite's LIBERO environment as `LiberoEnv` uses it, with lazy cameras."""

    def __init__(self, inner: Any, cameras: Sequence[str]) -> None:
        self._inner = inner
        self._cameras = tuple(cameras)
        self._drawers: dict[str, Any] = {}
        self._sample: Any = None
        self._spare: Any = None
        self._colours: Array = np.zeros(0)
        self._install()

    @property
    def env(self) -> Any:
        return self._inner.env

    @property
    def robots(self) -> Any:
        return self._inner.robots

    def seed(self, seed: int) -> None:
        self._inner.seed(seed)

    def reset(self) -> Any:
        # A hard reset frees the old GL objects; without this it would free those of whichever
        # simulator of this process drew last.
        self.make_current()
        raw = self._inner.reset()
        self._install()
        return raw

    def set_init_state(self, state: Any) -> Any:
        return self._inner.set_init_state(state)

    def step(self, action: Array) -> Any:
        return self._inner.step(action)

    def check_success(self) -> bool:
        return bool(self._inner.check_success())

    def close(self) -> None:
        self.make_current()
        self._drawers = {}
        self._inner.close()

    def make_current(self) -> None:
        """Make this simulator's GL context current; robosuite does so only when it builds."""
        context = self._inner.env.sim._render_context_offscreen  # noqa: SLF001
        if context is not None:
            context.gl_ctx.make_current()

    def draw(self, camera: str) -> UInt8[Array, "h w 3"]:
        """The picture `camera` would have taken when it last sampled."""
        sim = self._inner.env.sim
        model, live = sim.model._model, sim.data._data  # noqa: SLF001
        colours = model.site_rgba.copy()
        mujoco.mj_copyData(self._spare, model, live)
        mujoco.mj_copyData(live, model, self._sample)
        model.site_rgba[:] = self._colours
        try:
            self.make_current()
            return np.array(self._drawers[camera]({}))
        finally:
            mujoco.mj_copyData(live, model, self._spare)
            model.site_rgba[:] = colours

    def _install(self) -> None:
        """Put lazy sensors in place of the cameras; a hard reset has made new simulator objects."""
        robosuite_env = self._inner.env
        sim = robosuite_env.sim
        model = sim.model._model  # noqa: SLF001
        if self._sample is None or robosuite_env.hard_reset:
            self._sample, self._spare = mujoco.MjData(model), mujoco.MjData(model)
            # robosuite can replace a sensor but offers no way to read the one in place.
            observables = robosuite_env._observables  # noqa: SLF001
            self._drawers = {name: observables[name]._sensor for name in self._cameras}  # noqa: SLF001
            for position, name in enumerate(self._cameras):
                lazy = self._lazy(np.array(self._drawers[name]({})).shape, first=position == 0)
                robosuite_env.modify_observable(name, "sensor", lazy)
        self._store()

    def _lazy(self, shape: tuple[int, ...], *, first: bool) -> Any:
        blank = np.zeros(shape, dtype=np.uint8)

        @sensor(modality="image")
        def remember(obs_cache: Any) -> Array:
            del obs_cache
            # All cameras sample in the same physics step; one copy serves them all.
            if first:
                self._store()
            return blank

        return remember

    def _store(self) -> None:
        sim = self._inner.env.sim
        model = sim.model._model  # noqa: SLF001
        mujoco.mj_copyData(self._sample, model, sim.data._data)  # noqa: SLF001
        self._colours = model.site_rgba.copy()


class BoundaryLiberoEnv(LiberoEnv):
    """`LiberoEnv` whose observations carry blank images; `draw` gives the real ones on demand."""

    def _ensure_env(self) -> None:
        if self._env is not None:
            return
        with quiet_stdout():
            super()._ensure_env()
        self._env: Any = LazyCameraEnv(self._env, self.camera_name)

    @property
    def num_init_states(self) -> int:
        """How many initial states the task has; LeRobot takes an id modulo this number."""
        return 0 if self._init_states is None else len(self._init_states)

    def draw(self, camera: str) -> UInt8[Array, "h w 3"]:
        """The picture that stock `LiberoEnv` would have put into the last observation."""
        return self._env.draw(camera)
