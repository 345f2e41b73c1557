"""What a learner tells those who watch it, while it runs.

Owns the calls that it makes. Refuses to know trackers: `pirl.tracking.live` has them, and the command line
brings them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pirl.config.train import PiRLTrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRun:
    """The run that is about to be watched."""

    cfg: PiRLTrainConfig
    root: Path
    """The run folder."""
    run_id: str
    version: int
    """Updates that are done; rows begin after it."""


class Watchers(Protocol):
    """Who gets the rows. No call waits for the outside world, and none raises because of it."""

    def row(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of an update."""
        ...

    def video(self, step: int, path: Path) -> None:
        """A video of an update."""
        ...

    def close(self, *, finished: bool) -> Mapping[str, Any]:
        """The run is over; returns what became of the rows, by tracker."""
        ...


class NoWatchers:
    """Nobody watches."""

    def row(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def video(self, step: int, path: Path) -> None: ...

    def close(self, *, finished: bool) -> Mapping[str, Any]:
        return {}


type OpenWatchers = Callable[[WatchedRun], Watchers]


def nobody(_: WatchedRun) -> Watchers:
    """An `OpenWatchers` that opens nothing."""
    return NoWatchers()
