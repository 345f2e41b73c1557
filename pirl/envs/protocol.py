"""The messages between a vector environment and its simulator workers.

Owns their shape only. They cross a private socket pair between a process and its own child. Read
`pirl.envs.worker` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pirl.envs.base import Array, ChunkResult, EnvObservation, SlotPlan, SlotSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Build `count` slots; answered by `Built`."""

    settings: SlotSettings
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The slots exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Start episodes, by local slot index; answered by `Observations`."""

    plans: Mapping[int, SlotPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    by_slot: dict[int, EnvObservation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Execute one chunk in each slot, by local slot index; answered by `Results`."""

    actions: Mapping[int, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    by_slot: dict[int, ChunkResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Free everything and end; not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """This machine lacks something; becomes `EnvironmentNotReadyError` in the parent."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The worker failed; becomes `EnvError`, with task and seed added by the parent."""

    message: str


Request = Build | Reset | Step | Close
Reply = Built | Observations | Results | NotReady | Failure
