"""How large a run this machine takes: environments, workers and batches, from memory, cores and the weights.

Owns the arithmetic and what it stands on. A start that runs, not a tuned one. Read `pirl.doctor.init` next.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

PROCESS_GIB = 1.0
"""Of a learner or an actor without its weights."""
COPIES = 5
"""Of the weights in float32: learner, gradients, two moments, actor."""
LARGE = 10**8
"""Values; a policy from here on is fine-tuned with the rate of the published checkpoints."""

_SHARE = 0.8
"""Of the free memory; the rest is for pictures, features and checkpoints being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run may use here."""

    cores: int
    memory_gib: float
    """Free now."""

    @staticmethod
    def here() -> Machine:
        free = psutil.virtual_memory().available / 2**30
        return Machine(cores=len(os.sched_getaffinity(0)), memory_gib=free)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Values for the fields of the same names, and what they need."""

    envs_per_actor: int
    env_workers: int
    rollout_chunks: int
    global_batch: int
    micro_batch: int
    total_updates: int
    checkpoint_every_updates: int
    torch_threads: int
    actor_lr: float
    needed_gib: float
    """Estimate of main memory."""


def fit(
    machine: Machine, *, values: int, simulator_gib: float, decisions_per_episode: int, gpu: bool
) -> Sizes:
    """Sizes for one learner and one actor on `machine`.

    Args:
        values: numbers in the weights file.
        simulator_gib: resident memory of a simulator with its worker.
        decisions_per_episode: of an episode that runs into its time limit.
        gpu: the copies of the weights lie on the device.
    """
    weights_gib = 0 if gpu else COPIES * values * 4 / 2**30
    fixed = 2 * PROCESS_GIB + weights_gib
    room = (_SHARE * machine.memory_gib - fixed) / simulator_gib
    workers = max(1, min(machine.cores, 8, int(room)))
    # A device samples two episodes nearly as fast as one.
    envs = 2 * workers if gpu and room >= 2 * workers else workers
    rollout = envs * decisions_per_episode * (2 if gpu else 4)
    micro = max(1, min(8 if gpu else 4, rollout))
    return Sizes(
        envs_per_actor=envs,
        env_workers=workers,
        rollout_chunks=rollout,
        global_batch=micro * max(1, min(8, rollout // (2 * micro))),
        micro_batch=micro,
        total_updates=200 if gpu else 20,
        checkpoint_every_updates=10 if gpu else 5,
        torch_threads=max(1, machine.cores // 4) if gpu else max(1, machine.cores // 2),
        actor_lr=1e-6 if values >= LARGE else 1e-5,
        needed_gib=fixed + envs * simulator_gib,
    )
