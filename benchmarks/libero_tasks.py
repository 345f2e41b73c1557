"""Build, reset and step every task of the four LIBERO suites once, in a worker, and report as JSON.

python benchmarks/libero_tasks.py [--suites libero_10 libero_goal] [--size 64]
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
from lerobot.envs.configs import LiberoEnv as LiberoEnvConfig

from pirl.envs import load_split, make_vector_env
from pirl.envs.schedule import evaluation_plans

SUITES = ("libero_10", "libero_object", "libero_spatial", "libero_goal")
KEYS = ("observation.images.image", "observation.images.image2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", nargs="+", default=list(SUITES))
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    cfg = LiberoEnvConfig(
        task=",".join(args.suites),
        observation_height=args.size,
        observation_width=args.size,
        control_mode="absolute",
        episode_length=800,
    )
    split = load_split("libero")
    rest = np.tile(np.array([-0.05, 0.0, 1.0, 3.1, 0.0, 0.0, -1.0], np.float32), (10, 1))
    rows = []
    with make_vector_env(cfg, num_envs=1, num_workers=1, image_keys=KEYS, split=split) as env:
        for plan in evaluation_plans(
            seed=0, task_names=env.task_names, split=split, episodes_per_task=1
        ):
            started = time.perf_counter()
            first = env.reset({0: plan})[0]
            reset_s = time.perf_counter() - started
            result = env.step_chunk({0: rest})[0]
            rows.append(
                {
                    "task": env.task_names[plan.task_id],
                    "instruction": env.instruction(plan.task_id),
                    "reset_s": round(reset_s, 2),
                    "chunk_of_10_s": round(sum(result.timings.values()), 3),
                    "picture_std": round(float(first.images[KEYS[0]].std()), 1),
                    "valid_steps": result.valid_steps,
                }
            )
            sys.stderr.write(f"{rows[-1]['task']} reset {reset_s:.1f} s\n")
    json.dump({"benchmark": "libero_tasks", "tasks": len(rows), "rows": rows}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
