"""Compare pirl's LIBERO with stock `LiberoEnv`, bit for bit, and time both; one JSON row per task.

python -m benchmarks.libero_exact [--suites libero_goal] [--tasks 0 7] [--steps 100] [--size 64]

Per task: two episodes of different initial states and seeds, in this order on one simulator of each side, so that
what a soft reset leaves behind would show. After every control step the state that the policy sees, positions,
velocities, commands, accelerations kept for the solver, and the model's colours and body frames are compared;
every tenth step also both pictures. CPU seconds are those of this process.
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
CAMERAS = "agentview_image,robot0_eye_in_hand_image"
PLANS = ((3, 7), (41, 8))
"""Initial state and seed."""
MODEL = ("site_rgba", "body_pos", "body_quat", "geom_rgba", "site_size", "qpos0")
DATA = ("time", "qpos", "qvel", "ctrl", "act", "qacc", "qacc_warmstart", "xpos", "site_xpos")


def build(kind: type, suite: str, task: int, size: int, *, hard: bool) -> Any:
    from libero.libero import benchmark

    return kind(
        task_suite=benchmark.get_benchmark_dict()[suite](),
        task_id=task,
        task_suite_name=suite,
        camera_name=CAMERAS,
        observation_height=size,
        observation_width=size,
        control_mode="absolute",
        obs_type="pixels_agent_pos",
        hard_reset=hard,
    )


def rows(steps: int) -> np.ndarray:
    """Absolute targets near the start pose, down and up again; the gripper closes and opens."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (steps, 7))
    targets = np.array([-0.05, 0.0, 1.0, 3.1, 0.0, 0.0, -1.0]) + noise
    targets[:, 2] -= 0.15 * (np.arange(steps) % 50 > 20)
    targets[:, 6] = np.where(np.arange(steps) % 30 < 15, -1.0, 1.0)
    return targets.astype(np.float32)


def current(env: Any) -> None:
    """Two robosuite simulators in one process: stock never makes its GL context current."""
    inner = getattr(env._env, "_inner", env._env)  # noqa: SLF001
    if inner is not None:
        inner.env.sim._render_context_offscreen.gl_ctx.make_current()  # noqa: SLF001


def facts(env: Any, raw: Any) -> dict[str, bytes]:
    """What must be equal, as bytes by name."""
    sim = env._env.env.sim  # noqa: SLF001
    found = {name: np.array(getattr(sim.model._model, name)).tobytes() for name in MODEL}  # noqa: SLF001
    found |= {name: np.array(getattr(sim.data._data, name)).tobytes() for name in DATA}  # noqa: SLF001
    for part, values in raw["robot_state"].items():
        found |= {f"{part} {name}": np.array(value).tobytes() for name, value in values.items()}
    return found


def episodes(env: Any, steps: int, seconds: dict[str, float], *, lazy: bool) -> Iterator[Any]:
    """Facts after each reset and step, with pictures every tenth step."""
    for state, seed in PLANS:
        started = time.process_time()
        env.init_state_id = state
        if env._env is not None:  # noqa: SLF001
            current(env)
        raw, _ = env.reset(seed=seed)
        seconds[f"reset {state}"] = time.process_time() - started
        yield facts(env, raw) | pictures(env, raw, lazy=lazy)
        for step, row in enumerate(rows(steps), start=1):
            started = time.process_time()
            current(env)
            raw, _, done, _, info = env.step(row)
            found = {"done": bytes([done, info["is_success"]])}
            if step % 10 == 0:
                found |= pictures(env, raw, lazy=lazy)
            seconds["steps"] = seconds.get("steps", 0.0) + time.process_time() - started
            yield found | facts(env, raw)
            if done:
                break


def pictures(env: Any, raw: Any, *, lazy: bool) -> dict[str, bytes]:
    if lazy:
        return {name: env.draw(name).tobytes() for name in env.camera_name}
    return {n: raw["pixels"][env.camera_name_mapping[n]].tobytes() for n in env.camera_name}


def compare(suite: str, task: int, *, steps: int, size: int) -> dict[str, Any]:
    """Both sides of one task in lockstep."""
    from lerobot.envs.libero import LiberoEnv

    from pirl.envs.libero_env import BoundaryLiberoEnv

    times: tuple[dict[str, float], dict[str, float]] = ({}, {})
    stock = build(LiberoEnv, suite, task, size, hard=True)
    ours = build(BoundaryLiberoEnv, suite, task, size, hard=False)
    compared, different = 0, set[str]()
    for a, b in zip(
        episodes(stock, steps, times[0], lazy=False),
        episodes(ours, steps, times[1], lazy=True),
        strict=True,
    ):
        different |= (
            {f"{n} at {compared}" for n in a if a[n] != b[n]} if a.keys() == b.keys() else {"keys"}
        )
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
