"""What LeRobot's `LiberoEnv` does, bit for bit, without the work whose results nobody sees.

Owns what is left out: pictures that the policy does not look at, repeated passes of the dynamics, values that
nobody reads, models built again, and LeRobot itself: its environments import torch, transformers and more, 8 CPU
seconds and 700 MB in every worker. Import it only after `pirl.envs.libero_setup.prepare_config`. Read
`pirl.envs.libero` next.

Pictures: robosuite's cameras are observables that sample once per control period, at a phase of their own,
and from the derived positions that `mj_step` leaves behind, which lag the joint positions by one
physics step. A picture taken later is a different picture. So a lazy camera stores, at the sampling
moment, a copy of the simulator data and of the colours that LIBERO's objects change, and draws that
copy when the policy looks.

Dynamics: every physics step of robosuite is `mj_forward` (environment), `mj_forward` (controller), torques,
`mj_step`, which begins with a third forward pass. The controller reads positions and velocities only, so
`mj_step1`, torques, `mj_step2` give the same bits.

Resets: a hard reset compiles the model anew. What a soft one leaves behind is the gripper's last command
and what LIBERO changed in the model (places of fixtures, colours of sites); set back, it gives the same
bits. `benchmarks/libero_exact.py` compares every task.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from libero.libero.envs import OffScreenRenderEnv
from robosuite.utils.observables import sensor

from pirl.envs.base import Array
from pirl.envs.libero import SETTLE_STEPS, LiberoScene
from pirl.envs.libero_setup import quiet_stdout

# Imported by name because MuJoCo's stubs lack most of its binding.
mujoco: Any = importlib.import_module("mujoco")


_NO_OP = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_READ = ("robot0_eef_pos",)
"""Observables that are read here. robosuite samples all in every physics step, objects included."""


_CHANGED = ("body_pos", "body_quat", "site_rgba")
"""Arrays of the model that LIBERO changes. The places of objects are drawn from where fixtures were before."""


_LOADS_BEFORE_FIRST_EPISODE = 3
"""LIBERO draws drawers that start open once for every time that the model was loaded, so with stock the same seed
gives another scene at every reset. Here each episode is the first one of a new `LiberoEnv`.
"""


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
        env, loads = inner.env, 2 if self._is_hard else 1
        of_one_load = len(env.object_property_initializers) // loads
        self._drawn = env.object_property_initializers[:of_one_load]
        self._compiled: dict[str, Array] = {} if self._is_hard else self._as_compiled()
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
        # A hard reset adds to this list.
        copies = _LOADS_BEFORE_FIRST_EPISODE - (1 if self._is_hard else 0)
        self._inner.env.object_property_initializers = self._drawn * copies
        if not self._is_hard:
            for robot in self._inner.robots:
                robot.gripper.current_action = np.zeros_like(robot.gripper.current_action)
            model = self._inner.env.sim.model._model  # noqa: SLF001
            for name, values in self._compiled.items():
                getattr(model, name)[:] = values
        raw = self._inner.reset()
        self._install()
        return raw

    def _as_compiled(self) -> dict[str, Array]:
        # robosuite has placed fixtures already. MuJoCo keeps decoded textures, so that this takes little.
        model = mujoco.MjModel.from_xml_string(self._inner.env.model.get_xml())
        return {name: getattr(model, name).copy() for name in _CHANGED}

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


class LiberoSim:
    """One LIBERO task: what LeRobot's `LiberoEnv` does to robosuite, with pictures on demand."""

    def __init__(
        self, scene: LiberoScene, *, cameras: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        """
        Args:
            cameras: robosuite cameras that will be drawn.
            options: `observation_height`, `observation_width`, `control_freq`, `hard_reset` and `control_mode`.
        """
        self._scene = scene
        self._is_delta = options["control_mode"] == "relative"
        hard = bool(options["hard_reset"])
        with quiet_stdout():
            inner = OffScreenRenderEnv(
                bddl_file_name=scene.bddl_file,
                camera_heights=options["observation_height"],
                camera_widths=options["observation_width"],
                control_freq=options["control_freq"],
                hard_reset=hard,
            )
            if hard:
                inner.reset()
        self._env = LazyCameraEnv(inner, cameras)
        self._raw: Any = None

    @property
    def num_init_states(self) -> int:
        return len(self._scene.init_states)

    @property
    def pose(self) -> tuple[Float64[Array, " 3"], Float64[Array, "3 3"]]:
        """End-effector position, metres, and rotation, as the last step left them."""
        return self._raw["robot0_eef_pos"], self._env.robots[0].controller.ee_ori_mat

    def reset(self, *, init_state_id: int, seed: int) -> None:
        """Start an episode: the seed places fixtures, the state everything that moves; then it settles."""
        with quiet_stdout():
            self._env.seed(seed)
            self._env.reset()
            self._raw = self._env.set_init_state(self._scene.init_states[init_state_id])
            for _ in range(SETTLE_STEPS):
                self._raw = self._env.step(np.array(_NO_OP))[0]
        for robot in self._env.robots:
            robot.controller.use_delta = self._is_delta

    def step(self, action: Float32[Array, " 7"]) -> bool:
        """One control step; whether the task is solved."""
        self._raw = self._env.step(action)[0]
        return self._env.check_success()

    @property
    def sim(self) -> Any:
        """robosuite's simulator, whose positions a scripted expert reads."""
        return self._env.env.sim

    def draw(self, camera: str) -> UInt8[Array, "h w 3"]:
        """The picture that stock `LiberoEnv` would have put into the last observation."""
        return self._env.draw(camera)

    def close(self) -> None:
        self._env.close()
