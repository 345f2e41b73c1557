"""The real actor with a simulator that costs nothing, for tests of processes and links.

Started by `pirl.gate.forked`. An episode lasts two to four chunks; `TOY_CHUNK_S` makes every chunk take that long,
and none begins while the file `TOY_HOLD` exists.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from env_toys import ShortSettings, ShortSlot

from pirl.algorithm.chain import LOG_PROB
from pirl.envs import describe_env
from pirl.envs.vector import IdentityCodec, SlotVectorEnv
from pirl.runtime import actor, lockstep

PACE_VARIABLE = "TOY_CHUNK_S"
LIE_VARIABLE = "TOY_LIES"
HOLD_VARIABLE = "TOY_HOLD"
SAMPLE_CHUNK = lockstep.sample_chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedSettings(ShortSettings):
    pace_s: float

    def make_slots(self, count):
        return [PacedSlot(self) for _ in range(count)]


class PacedSlot(ShortSlot):
    """Takes its time, and waits while it is held; episodes last two to four chunks."""

    def last_chunk(self):
        return 2 + self.seed % 3

    def step_chunk(self, actions):
        time.sleep(self.settings.pace_s)
        while Path(os.environ[HOLD_VARIABLE]).exists():
            time.sleep(0.02)
        timings = {"step_s": self.settings.pace_s, "render_s": 0.0}
        return replace(super().step_chunk(actions), timings=timings)


def make_paced_env(env_cfg, *, num_envs, image_keys, split, **_):
    info = describe_env(env_cfg)
    shapes = {key: info.image_shapes[key] for key in image_keys}
    settings = PacedSettings(shapes=shapes, pace_s=float(os.environ[PACE_VARIABLE]))
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
