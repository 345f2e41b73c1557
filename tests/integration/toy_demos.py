"""Demonstrations of random pictures and numbers, for the embedded configs."""

from __future__ import annotations

import numpy as np

from pirl.envs.demos import Demo

INSTRUCTION = "Press a button from the top"
KEY = "observation.images.image"


def a_demo(length: int = 6, seed: int = 0, every: int = 1) -> Demo:
    rng = np.random.default_rng(seed)
    return Demo(
        task_id=0,
        task="button-press-topdown-v3",
        instruction=INSTRUCTION,
        init_state_id=seed,
        seed=seed,
        looked=np.arange(0, length, every),
        images={KEY: rng.integers(0, 256, (-(-length // every), 3, 64, 64), dtype=np.uint8)},
        states=rng.random((length, 4), dtype=np.float32),
        actions=rng.random((length, 4), dtype=np.float32),
        executed=rng.random((length, 4), dtype=np.float32),
        sim_steps=5 * length,
    )
