"""The real actor with a simulator that costs nothing, for tests of processes and links.

Started by `pirl.gate.forked`. An episode lasts two to four chunks; `TOY_CHUNK_S` makes every chunk take that long,
and none begins while the file `TOY_HOLD` exists.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pirl.algorithm.chain import LOG_PROB
from pirl.envs import describe_env
from pirl.envs.base import ChunkResult, EnvObservation, SlotPlan
from pirl.envs.vector import IdentityCodec, SlotVectorEnv
from pirl.runtime import actor, lockstep

PACE_VARIABLE = "TOY_CHUNK_S"
LIE_VARIABLE = "TOY_LIES"
HOLD_VARIABLE = "TOY_HOLD"
SAMPLE_CHUNK = lockstep.sample_chunk


@dataclass(frozen=True, slots=True)
class PacedSettings:
    shapes: dict
    pace_s: float

    def make_slots(self, count):
        return [PacedSlot(self) for _ in range(count)]


class PacedSlot:
    """Pixels and state are a function of the seed and of all actions so far."""

    def __init__(self, settings):
        self.settings = settings
        self.seed, self.chunks, self.total = 0, 0, np.zeros(4, np.float32)

    def reset(self, plan: SlotPlan):
        self.seed, self.chunks, self.total = plan.seed, 0, np.zeros(4, np.float32)
        return self.observe()

    def step_chunk(self, actions):
        time.sleep(self.settings.pace_s)
        while Path(os.environ[HOLD_VARIABLE]).exists():
            time.sleep(0.02)
        self.chunks += 1
        self.total = self.total + actions.sum(0)
        ended = self.chunks == 2 + self.seed % 3
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
            timings={"step_s": self.settings.pace_s, "render_s": 0.0},
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


def make_paced_env(env_cfg, *, num_envs, image_keys, split, **_):
    info = describe_env(env_cfg)
    settings = PacedSettings(
        {key: info.image_shapes[key] for key in image_keys}, float(os.environ[PACE_VARIABLE])
    )
    return SlotVectorEnv(
        settings, info=info, codec=IdentityCodec(), split=split, num_envs=num_envs, num_workers=0
    )


LIE = 0.001
"""Nats per element; a decision has about a hundred."""


def record_a_lie(*arguments, **options):
    """Sample as usual, record a denser chain."""
    sampled = SAMPLE_CHUNK(*arguments, **options)
    return replace(sampled, fields={**sampled.fields, LOG_PROB: sampled.fields[LOG_PROB] + LIE})


class LyingActor(actor.Actor):
    """Reports episodes that no simulator can have run."""

    def _report(self, version, records):
        super()._report(version, [replace(record, env_steps=10**15) for record in records])


def main(argv):
    actor.make_vector_env = make_paced_env
    if os.environ[LIE_VARIABLE] == "env_steps":
        actor.Actor = LyingActor
    if os.environ[LIE_VARIABLE] == "log_prob":
        lockstep.sample_chunk = record_a_lie
    return actor.main(argv)
