"""Slots without a simulator, importable by a real worker process, that misbehave on request.

The seed of a plan chooses the behaviour; see `BEHAVIOURS`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np

from pirl.envs.base import ChunkResult, EnvInfo, EnvObservation, SlotPlan
from pirl.errors import EnvError, EnvironmentNotReadyError

KILLED, HANGS, RAISES, REFUSES, EXITS = 101, 102, 103, 104, 105
"""Seeds: dies by SIGKILL, sleeps, raises ValueError, raises EnvError, exits with code 7."""
SLOW, LARGE = 107, 108
"""Seeds: takes 0.7 s, shows more than a socket buffer holds."""
INFO = EnvInfo(
    kind="toy",
    task_names=("first", "second"),
    instructions=("do the first", "do the second"),
    action_width=2,
    state_width=3,
    image_shapes={"observation.images.image": (3, 2, 2)},
    max_control_steps={0: 10, 1: 10},
    sim_steps_per_action=1,
    reset_mode="seeded",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySettings:
    """`unready` makes every worker report that its machine lacks something."""

    unready: bool = False

    def make_slots(self, count):
        if self.unready:
            raise EnvironmentNotReadyError("no toys here", remedy="buy toys")
        sys.stdout.write("a notice on standard output\n")
        return [ToySlot() for _ in range(count)]


class ToySlot:
    """State: (seed, actions so far, process facts)."""

    def __init__(self):
        self.plan = SlotPlan(task_id=0, init_state_id=0, seed=0)
        self.total = 0.0

    def reset(self, plan):
        self.plan, self.total = plan, 0.0
        return self.observe()

    def step_chunk(self, actions):
        misbehave(self.plan.seed)
        self.total += float(actions.sum())
        return ChunkResult(
            observation=self.observe(),
            step_rewards=np.zeros(len(actions), np.float32),
            valid_steps=len(actions),
            terminated=False,
            truncated=False,
            success=False,
            sim_steps=len(actions),
        )

    def observe(self):
        heavy = float("torch" in sys.modules)
        side = 512 if self.plan.seed == LARGE else 2
        pixels = np.full((3, side, side), self.plan.seed % 256, np.uint8)
        return EnvObservation(
            images={"observation.images.image": pixels},
            state=np.array([self.plan.seed, self.total, heavy], np.float32),
        )

    def close(self):
        if self.plan.seed == HANGS:
            time.sleep(600)


def misbehave(seed):
    if seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == HANGS:
        time.sleep(600)
    if seed == SLOW:
        time.sleep(0.7)
    if seed == RAISES:
        raise ValueError("the toy broke")
    if seed == REFUSES:
        raise EnvError("the toy refuses")
    if seed == EXITS:
        os._exit(7)
    if seed == 106 and sys.stdin.read() != "":
        raise EnvError("standard input is open")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortSettings:
    """Slots whose episodes last one to four chunks, by their seed."""

    shapes: dict
    """(3, h, w) by camera."""
    killed_seed: int = -1
    """In the first chunk of that episode the worker dies."""

    def make_slots(self, count):
        return [ShortSlot(self) for _ in range(count)]


class ShortSlot:
    """Pixels and state are a function of the seed and of all actions so far."""

    def __init__(self, settings):
        self.settings = settings
        self.seed, self.chunks, self.total = 0, 0, np.zeros(4, np.float32)

    def reset(self, plan):
        self.seed, self.chunks, self.total = plan.seed, 0, np.zeros(4, np.float32)
        return self.observe()

    def last_chunk(self):
        return 1 + self.seed % 4

    def step_chunk(self, actions):
        self.chunks += 1
        if self.seed == self.settings.killed_seed:
            os.kill(os.getpid(), signal.SIGKILL)
        self.total = self.total + actions.sum(0)
        ended = self.chunks == self.last_chunk()
        success = ended and self.seed % 2 == 0
        rewards = np.zeros(len(actions), np.float32)
        rewards[-1] = float(success)
        return ChunkResult(
            observation=self.observe(),
            step_rewards=rewards,
            valid_steps=len(actions),
            terminated=success,
            truncated=ended and not success,
            success=success,
            sim_steps=len(actions),
            timings={"step_s": 0.0, "render_s": 0.0},
        )

    def observe(self):
        rng = np.random.default_rng([self.seed, self.chunks])
        shade = int(np.clip(128 + 100 * self.total.sum(), 0, 255))
        images = {
            key: (rng.integers(0, 256, shape) // 2 + shade // 2).astype(np.uint8)
            for key, shape in self.settings.shapes.items()
        }
        return EnvObservation(images=images, state=np.tanh(self.total))

    def close(self):
        """Nothing to free."""
