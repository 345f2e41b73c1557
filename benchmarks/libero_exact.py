"""Compare pirl's LIBERO with stock `LiberoEnv`, bit for bit, and time both; one JSON row per task.

python -m benchmarks.libero_exact [--suites libero_goal] [--tasks 0 7] [--steps 100] [--size 64]

Per task: two episodes of different initial states and seeds, in this order on one simulator of pirl's, so
that what a soft reset leaves behind would show, and on a new one of stock for each. After every control
step the state that the policy sees, positions, velocities, commands, accelerations kept for the solver, and
the model's colours and body frames are compared; every tenth step also both pictures. CPU seconds are those
of this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from pirl.envs.libero_assets import prepare_assets, use_assets
from pirl.envs.libero_setup import prepare_config, quiet_stdout

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
CAMERAS = {
    "observation.images.image": "agentview_image",
    "observation.images.image2": "robot0_eye_in_hand_image",
}
PLANS = ((3, 7), (41, 8))
"""Initial state and seed."""
MODEL = ("site_rgba", "body_pos", "body_quat", "geom_rgba", "site_size", "qpos0")
DATA = ("time", "qpos", "qvel", "ctrl", "act", "qacc", "qacc_warmstart", "xpos", "site_xpos")


class Stock:
    """LeRobot's environment, which draws at every step."""

    def __init__(self, suite: str, task: int, size: int) -> None:
        self._settings = (suite, task, size)
        self._env: Any = self._build()
        self._raw: Any = None

    def _build(self) -> Any:
        from lerobot.envs.libero import LiberoEnv
        from libero.libero import benchmark

        suite, task, size = self._settings
        return LiberoEnv(
            task_suite=benchmark.get_benchmark_dict()[suite](),
            task_id=task,
            task_suite_name=suite,
            camera_name=",".join(CAMERAS.values()),
            observation_height=size,
            observation_width=size,
            control_mode="absolute",
            obs_type="pixels_agent_pos",
        )

    @property
    def inner(self) -> Any:
        return None if self._env._env is None else self._env._env.env  # noqa: SLF001

    def reset(self, state: int, seed: int) -> None:
        if self.inner is not None:
            # Where a drawer starts open, stock is no function of state and seed (`pirl.envs.libero_env`).
            self._env.close()
            self._env = self._build()
        self._env.init_state_id = state
        self._raw, _ = self._env.reset(seed=seed)

    def step(self, row: np.ndarray) -> bool:
        self._raw, _, _, _, info = self._env.step(row)
        return bool(info["is_success"])

    def pose(self) -> tuple[Any, Any]:
        eef = self._raw["robot_state"]["eef"]
        return eef["pos"], eef["mat"]

    def pictures(self) -> dict[str, Any]:
        return {n: self._raw["pixels"][self._env.camera_name_mapping[n]] for n in CAMERAS.values()}

    def close(self) -> None:
        self._env.close()


class Ours:
    """pirl's simulator of the same task."""

    def __init__(self, suite: str, task: int, size: int) -> None:
        from lerobot.envs.configs import LiberoEnv as Config

        from pirl.envs.libero_config import libero_settings

        cfg = Config(
            task=suite,
            task_ids=[task],
            observation_height=size,
            observation_width=size,
            control_mode="absolute",
        )
        self._settings = libero_settings(cfg, image_keys=tuple(CAMERAS))
        self._sim: Any = None

    @property
    def inner(self) -> Any:
        return None if self._sim is None else self._sim._env.env  # noqa: SLF001

    def reset(self, state: int, seed: int) -> None:
        if self._sim is None:
            self._sim = self._settings._build(0)  # noqa: SLF001
        self._sim.reset(init_state_id=state, seed=seed)

    def step(self, row: np.ndarray) -> bool:
        return self._sim.step(row)

    def pose(self) -> tuple[Any, Any]:
        return self._sim.pose

    def pictures(self) -> dict[str, Any]:
        return {name: self._sim.draw(name) for name in CAMERAS.values()}

    def close(self) -> None:
        self._sim.close()


def rows(steps: int) -> np.ndarray:
    """Absolute targets near the start pose, down and up again; the gripper closes and opens."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (steps, 7))
    targets = np.array([-0.05, 0.0, 1.0, 3.1, 0.0, 0.0, -1.0]) + noise
    targets[:, 2] -= 0.15 * (np.arange(steps) % 50 > 20)
    targets[:, 6] = np.where(np.arange(steps) % 30 < 15, -1.0, 1.0)
    return targets.astype(np.float32)


def current(env: Stock | Ours) -> None:
    """Two robosuite simulators in one process: stock never makes its GL context current."""
    if env.inner is not None:
        env.inner.sim._render_context_offscreen.gl_ctx.make_current()  # noqa: SLF001


def facts(env: Stock | Ours) -> dict[str, bytes]:
    """What must be equal, as bytes by name."""
    sim = env.inner.sim
    found = {name: np.array(getattr(sim.model._model, name)).tobytes() for name in MODEL}  # noqa: SLF001
    found |= {name: np.array(getattr(sim.data._data, name)).tobytes() for name in DATA}  # noqa: SLF001
    position, rotation = env.pose()
    return found | {"eef position": position.tobytes(), "eef rotation": rotation.tobytes()}


def pictures(env: Stock | Ours) -> dict[str, bytes]:
    return {name: picture.tobytes() for name, picture in env.pictures().items()}


def episodes(env: Stock | Ours, steps: int, seconds: dict[str, float]) -> Iterator[Any]:
    """Facts after each reset and step, with pictures every tenth step."""
    for state, seed in PLANS:
        started = time.process_time()
        current(env)
        env.reset(state, seed)
        seconds[f"reset {state}"] = time.process_time() - started
        yield facts(env) | pictures(env)
        for step, row in enumerate(rows(steps), start=1):
            started = time.process_time()
            current(env)
            solved = env.step(row)
            found = {"solved": bytes([solved])}
            if step % 10 == 0:
                found |= pictures(env)
            seconds["steps"] = seconds.get("steps", 0.0) + time.process_time() - started
            yield found | facts(env)
            if solved:
                break


def compare(suite: str, task: int, *, steps: int, size: int) -> dict[str, Any]:
    """Both sides of one task in lockstep."""
    times: tuple[dict[str, float], dict[str, float]] = ({}, {})
    stock, ours = Stock(suite, task, size), Ours(suite, task, size)
    compared, different = 0, set[str]()
    pairs = zip(episodes(stock, steps, times[0]), episodes(ours, steps, times[1]), strict=True)
    for a, b in pairs:
        if a.keys() != b.keys():
            different.add(f"keys at {compared}")
        different |= {f"{n} at {compared}" for n in a.keys() & b.keys() if a[n] != b[n]}
        compared += 1
        if different:
            break
    for env in (stock, ours):
        current(env)
        env.close()
    row: dict[str, Any] = {"task": f"{suite}/{task}", "compared": compared}
    row |= {"different": sorted(different)[:8]}
    for name in times[0]:
        row[f"{name}, CPU s"] = [round(t.get(name, 0.0), 2) for t in times]
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=SUITES)
    parser.add_argument("--tasks", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    prepare_config()
    use_assets(prepare_assets())
    failed = 0
    for suite in args.suites:
        for task in args.tasks:
            with quiet_stdout():
                row = compare(suite, task, steps=args.steps, size=args.size)
            failed += bool(row["different"])
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
