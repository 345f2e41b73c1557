"""LeRobot's `LiberoEnv`, bit for bit, without the work whose results nobody sees.

Owns what is left out: pictures that the policy does not look at, repeated passes of the dynamics, values that
`LiberoEnv` does not read, and models built again. Import it only after `pirl.envs.libero_setup.prepare_config`:
importing LeRobot's module imports LIBERO. Read `pirl.envs.libero` next.

Pictures: robosuite's cameras are observables that sample once per control period, at a phase of their own,
and from the derived positions that `mj_step` leaves behind, which lag the joint positions by one
physics step. A picture taken later is a different picture. So a lazy camera stores, at the sampling
moment, a copy of the simulator data and of the colours that LIBERO's objects change, and draws that
copy when the policy looks.

Dynamics: every physics step of robosuite is `mj_forward` (environment), `mj_forward` (controller), torques,
`mj_step`, which begins with a third forward pass. The controller reads positions and velocities only, so
`mj_step1`, torques, `mj_step2` give the same bits.

Resets: a hard reset compiles the model anew. What a soft one leaves behind is the gripper's last command and the
colours of sites; with both set back it gives the same bits. `benchmarks/libero_exact.py` compares every task.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lerobot.envs.libero import LiberoEnv
from libero.libero.envs import OffScreenRenderEnv
from robosuite.utils.observables import sensor

from pirl.envs.base import Array
from pirl.envs.libero_setup import quiet_stdout

# Imported by name because MuJoCo's stubs lack most of its binding.
mujoco: Any = importlib.import_module("mujoco")


_READ = (
    *("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_gripper_qvel"),
    *("robot0_joint_pos", "robot0_joint_vel"),
)
"""Observables that `LiberoEnv` shows. robosuite samples all in every physics step, objects included."""


class _OnePass:
    """The dynamics of one control step with one forward pass per physics step, in place of `MjSim`'s methods."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim
        self._arguments = (sim.model._model, sim.data._data)  # noqa: SLF001
        self._is_forward = False

    def __enter__(self) -> None:
        self._is_forward = False
        self._sim.forward, self._sim.step = self._forward, self._step

    def __exit__(self, *_: object) -> None:
        del self._sim.forward, self._sim.step

    def _forward(self) -> None:
        if not self._is_forward:
            mujoco.mj_step1(*self._arguments)
            self._is_forward = True

    def _step(self) -> None:
        mujoco.mj_step2(*self._arguments)
        self._is_forward = False


class LazyCameraEnv:
    """robosuite's LIBERO environment as `LiberoEnv` uses it, with lazy cameras.

    With `hard_reset=False` it also steps with one pass and resets without a new model.
    """

    def __init__(self, inner: Any, cameras: Sequence[str]) -> None:
        self._inner = inner
        self._cameras = tuple(cameras)
        self._first_colours: Array = inner.env.sim.model.site_rgba.copy()
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
        if not self._is_hard:
            for robot in self._inner.robots:
                robot.gripper.current_action = np.zeros_like(robot.gripper.current_action)
            self._inner.env.sim.model.site_rgba[:] = self._first_colours
        raw = self._inner.reset()
        self._install()
        return raw

    @property
    def _is_hard(self) -> bool:
        return bool(self._inner.env.hard_reset)

    def set_init_state(self, state: Any) -> Any:
        return self._inner.set_init_state(state)

    def step(self, action: Array) -> Any:
        if self._is_hard:
            return self._inner.step(action)
        with _OnePass(self._inner.env.sim):
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
        if self._sample is None or self._is_hard:
            self._sample, self._spare = mujoco.MjData(model), mujoco.MjData(model)
            # robosuite can replace a sensor but offers no way to read the one in place.
            observables = robosuite_env._observables  # noqa: SLF001
            if not self._is_hard:
                for name in [n for n in observables if n not in (*self._cameras, *_READ)]:
                    del observables[name]
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
            if self.hard_reset:
                super()._ensure_env()
                inner: Any = self._env
            else:
                # As LeRobot builds it, without its first reset: another follows at once.
                inner = OffScreenRenderEnv(
                    bddl_file_name=self._task_bddl_file,
                    camera_heights=self.observation_height,
                    camera_widths=self.observation_width,
                    control_freq=self.control_freq,
                    hard_reset=False,
                )
        self._env: Any = LazyCameraEnv(inner, self.camera_name)

    @property
    def num_init_states(self) -> int:
        """How many initial states the task has; LeRobot takes an id modulo this number."""
        return 0 if self._init_states is None else len(self._init_states)

    @property
    def sim(self) -> Any:
        """robosuite's simulator, whose positions a scripted expert reads."""
        return self._env.env.sim

    def draw(self, camera: str) -> UInt8[Array, "h w 3"]:
        """The picture that stock `LiberoEnv` would have put into the last observation."""
        return self._env.draw(camera)
