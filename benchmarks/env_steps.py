"""Control steps per second: stock LeRobot environments against pirl's, in one run, as JSON.

    python benchmarks/env_steps.py --envs libero metaworld --chunks 10 30 --rounds 5

Stock environments draw at every step; pirl draws at chunk boundaries. Both execute the same
actions, alternately round by round, so that a busy machine slows both; the ratio is what counts.
CPU seconds are those of this process, software rasteriser included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pirl.envs.base import SlotPlan
from pirl.envs.libero_setup import quiet_stdout


@dataclass
class Side:
    """One contestant: restart an episode, then execute one chunk."""

    restart: Callable[[], None]
    execute: Callable[[np.ndarray], None]
    close: Callable[[], None]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def race(self, chunks: list[np.ndarray]) -> None:
        """Time one round; the restart is not counted."""
        self.restart()
        wall, cpu = time.perf_counter(), time.process_time()
        for chunk in chunks:
            self.execute(chunk)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def libero_sides(size: int) -> tuple[Side, Side, int]:
    """Stock `LiberoEnv` and a LIBERO slot on the same task and initial state."""
    from lerobot.envs.configs import LiberoEnv as Config

    from pirl.envs.libero_config import libero_settings

    cfg = Config(
        task="libero_10",
        task_ids=[5],
        observation_height=size,
        observation_width=size,
        control_mode="absolute",
        episode_length=900,
    )
    keys = ("observation.images.image", "observation.images.image2")
    (slot,) = libero_settings(cfg, image_keys=keys).make_slots(1)
    from lerobot.envs.libero import LiberoEnv
    from libero.libero import benchmark

    stock = LiberoEnv(
        task_suite=benchmark.get_benchmark_dict()["libero_10"](),
        task_id=5,
        task_suite_name="libero_10",
        control_mode="absolute",
        **{k: v for k, v in cfg.gym_kwargs.items() if k != "task_ids"},
    )

    def own_context() -> None:
        # Two robosuite simulators in one process: stock never makes its GL context current.
        inner = stock._env  # noqa: SLF001
        if inner is not None:
            inner.env.sim._render_context_offscreen.gl_ctx.make_current()  # noqa: SLF001

    def restart_stock() -> None:
        own_context()
        stock.init_state_id = 3
        stock.reset(seed=1)

    def run_stock(chunk: np.ndarray) -> None:
        for row in chunk:
            stock.step(row)

    def close_stock() -> None:
        own_context()
        stock.close()

    ours = Side(
        restart=lambda: slot.reset(SlotPlan(task_id=0, init_state_id=3, seed=1)) and None,
        execute=lambda chunk: slot.step_chunk(chunk) and None,
        close=slot.close,
    )
    return Side(restart_stock, run_stock, close_stock), ours, 7


def metaworld_sides(size: int) -> tuple[Side, Side, int]:
    """Stock `MetaworldEnv` and a MetaWorld slot; one simulator step per action on both sides."""
    from lerobot.envs.metaworld import MetaworldEnv

    from pirl.envs.metaworld import MetaWorldSettings

    task = "button-press-topdown-v3"
    settings = MetaWorldSettings(
        task_names=(task,),
        image_keys=("observation.images.image",),
        image_size=size,
        action_repeat=1,
        episode_length=500,
    )
    (slot,) = settings.make_slots(1)
    stock = MetaworldEnv(task=task, obs_type="pixels_agent_pos")

    def run_stock(chunk: np.ndarray) -> None:
        for row in chunk:
            stock.step(row)

    ours = Side(
        restart=lambda: slot.reset(SlotPlan(task_id=0, init_state_id=3, seed=3)) and None,
        execute=lambda chunk: slot.step_chunk(chunk) and None,
        close=slot.close,
    )
    return Side(lambda: stock.reset(seed=3) and None, run_stock, stock.close), ours, 4


def compare(name: str, *, size: int, chunk: int, steps: int, rounds: int) -> dict[str, object]:
    """Race both sides and report the medians."""
    stock, ours, width = {"libero": libero_sides, "metaworld": metaworld_sides}[name](size)
    rng = np.random.default_rng(0)
    if name == "libero":
        rest = np.array([-0.05, 0.0, 1.0, 3.1, 0.0, 0.0, -1.0])
        chunks = [
            (rest + rng.uniform(-0.05, 0.05, (chunk, width)) * (np.arange(width) < 6)).astype(
                np.float32
            )
            for _ in range(max(1, steps // chunk))
        ]
    else:
        # Away from the button: success would end the episode.
        chunks = [
            rng.uniform(-0.2, 0.2, (chunk, width)).astype(np.float32)
            for _ in range(max(1, steps // chunk))
        ]
    for side in (stock, ours):
        side.restart()
        side.execute(chunks[0])
    for _ in range(rounds):
        for side in (stock, ours):
            side.race(chunks)
    executed = sum(len(c) for c in chunks)
    result = {
        "env": name,
        "image_size": {"stock": size if name == "libero" else 480, "pirl": size},
        "chunk": chunk,
        "control_steps_per_round": executed,
        "rounds": rounds,
        "stock_steps_per_s": executed / statistics.median(stock.wall),
        "pirl_steps_per_s": executed / statistics.median(ours.wall),
        "ratio_wall": statistics.median(s / o for s, o in zip(stock.wall, ours.wall, strict=True)),
        "ratio_cpu": statistics.median(s / o for s, o in zip(stock.cpu, ours.cpu, strict=True)),
    }
    ours.close()
    stock.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=["libero"], choices=["libero", "metaworld"])
    parser.add_argument("--chunks", nargs="+", type=int, default=[10, 30])
    parser.add_argument("--steps", type=int, default=60, help="control steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="pixels; LeRobot's MetaWorld has 480")
    parser.add_argument("--out", type=Path, help="JSON file; default: standard output")
    args = parser.parse_args()
    with quiet_stdout():
        results = [
            compare(name, size=args.size, chunk=chunk, steps=args.steps, rounds=args.rounds)
            for name in args.envs
            for chunk in args.chunks
        ]
    text = json.dumps({"benchmark": "env_steps", "results": results}, indent=1) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
