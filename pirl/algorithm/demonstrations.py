"""Demonstrations beside RL: which rows a minibatch imitates, and how much they weigh (`algorithm.md` 10.5).

Owns the choice of rows and the schedule of `pirl.bc_weight`. Refuses to know files; whoever has demonstrations
answers `Demonstrations`. Read `pirl.algorithm.update` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Int64
from torch import Tensor

from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.config.recipe import PiRLConfig


class Demonstrations(Protocol):
    """N rows to imitate, found by number; equal numbers are equal bits, whoever asks and when."""

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What a resumed run must find again: the digest of the content, and its counts."""
        ...

    @property
    def most_bytes(self) -> int:
        """What it holds in main memory at most."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def batch(self, rows: Int64[Tensor, " m"]) -> Mapping[str, Tensor]:
        """What `FlowPolicy.demo_loss` takes, for these rows in this order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """The demonstration term of one update."""

    demos: Demonstrations
    weight: float
    """Of L_bc; above 0."""


def bc_weight(pirl: PiRLConfig, *, update: int, total_updates: int) -> float:
    """Weight of L_bc in update number `update`, counted from 0: constant, or falling evenly to 0."""
    if pirl.bc_schedule == "linear":
        return pirl.bc_weight * max(0.0, 1.0 - update / max(1, total_updates))
    return pirl.bc_weight


def demo_rows(
    available: int, count: int, *, seed: int, version: int, epoch: int, minibatch: int
) -> Int64[Tensor, " count"]:
    """Rows that a minibatch of `count` decisions imitates: as many, uniform, drawn with replacement.

    A function of its arguments alone, so that a resumed run imitates what it would have imitated.
    """
    rng = seeded_generator(seed, Stream.DEMO_ROWS, version, epoch, minibatch)
    return torch.randint(available, (count,), generator=rng)
