"""One tracker behind a queue and a thread: it never delays a run, never ends one, and what it loses is counted.

Owns the queue, the deadlines and the one warning. Refuses to know what a tracker is. Read `pirl.tracking.live`
for those there are.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

OPEN_S = 60.0
"""A learner waits this long for its trackers before it lets actors in: wandb starts a process."""
CLOSE_S = 20.0
"""And this long for the last rows; a process that is told to stop has 60 s in all."""
ROWS = 1000
"""Rows that may wait for a tracker that is slow."""


type _Item = tuple[int, Mapping[str, float] | Path]
"""Update, and its metrics or its video."""


class Tracker(Protocol):
    """An open tracker; every call is made by one thread and may raise anything."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of an update."""
        ...

    def video(self, step: int, path: Path) -> None:
        """Keep the video of an update, where the tracker can."""
        ...

    def close(self, *, finished: bool) -> None:
        """The run is over."""
        ...


class Feed:
    """The way of rows to one tracker."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker], *, fix: str) -> None:
        """
        Args:
            open_tracker: called on the feed's own thread.
            fix: what a user can do when it fails; part of the warning.
        """
        self._name = name
        self._open = open_tracker
        self._fix = fix
        self._queue: queue.Queue[_Item | bool] = queue.Queue()
        self._is_open = threading.Event()
        self._given = 0
        self._kept = 0
        self._error = ""
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> None:
        """Until the tracker is open or has failed, `OPEN_S` at most."""
        if not self._is_open.wait(OPEN_S):
            self._warn(f"not open after {OPEN_S:g} s")

    def row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over a row, unless too many wait already."""
        self._given += 1
        if self._queue.qsize() < ROWS:
            self._queue.put((step, dict(metrics)))
        else:
            self._warn(f"{ROWS} rows wait for it")

    def video(self, step: int, path: Path) -> None:
        """Hand over a video; rows are what is counted."""
        self._queue.put((step, path))

    def close(self, *, finished: bool) -> dict[str, int | str]:
        """End the tracker within `CLOSE_S`; rows given and kept, and its first error."""
        self._queue.put(finished)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._warn(f"it did not end within {CLOSE_S:g} s")
        lost = self._given - self._kept
        if lost:
            logger.warning("tracker %s lost %d of %d rows", self._name, lost, self._given)
        return {"rows": self._given, "lost": lost, "error": self._error}

    def _work(self) -> None:
        tracker = self._opened()
        self._is_open.set()
        while not isinstance(item := self._queue.get(), bool):
            step, what = item
            if tracker is None:
                continue
            if isinstance(what, Path):
                self._tries(lambda step=step, path=what: tracker.video(step, path))
            elif self._tries(lambda step=step, row=what: tracker.write(step, row)):
                self._kept += 1
        if tracker is not None:
            self._tries(lambda: tracker.close(finished=item))

    def _opened(self) -> Tracker | None:
        opened: list[Tracker] = []
        self._tries(lambda: opened.append(self._open()))
        return opened[0] if opened else None

    def _tries(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a library of somebody else's, and a run that must go on
            lines = str(error).strip().splitlines()
            self._warn(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
            return False
        return True

    def _warn(self, what: str) -> None:
        """The first time only: every row of a run would say the same."""
        if self._error:
            return
        self._error = what
        logger.warning(
            "tracker %s: %s; the run goes on, its rows are in learner/metrics.jsonl. fix: %s",
            self._name,
            what,
            self._fix,
        )
