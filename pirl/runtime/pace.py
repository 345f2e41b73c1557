"""How long the rest of a run takes: the median of its last updates, times those that are left."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

RECENT = 10
"""Updates that the time of the next ones is taken from."""


class Pace:
    """The moments at which updates ended, in this process."""

    def __init__(self) -> None:
        self._times: deque[float] = deque([time.monotonic()], maxlen=RECENT + 1)

    def note(self) -> None:
        """An update has ended."""
        self._times.append(time.monotonic())

    def left(self, updates: int) -> str:
        """The rest of the run in words behind a comma; empty before the first update and after the last."""
        seconds = left_s(self._times, updates)
        return "" if seconds is None or updates < 1 else f", about {duration(seconds)} left"


def left_s(times: Sequence[float], updates: int) -> float | None:
    """Seconds for `updates` more; None without two moments.

    Args:
        times: when updates ended. The clock starts anew with every resume, so only steps forward count.
    """
    spent = [after - before for before, after in pairwise(times) if after > before]
    return statistics.median(spent) * max(0, updates) if spent else None


def duration(seconds: float) -> str:
    """Seconds in words, as a person would say them."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
