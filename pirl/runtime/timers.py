"""Seconds spent per stage, accumulated between two metric rows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager


class StageTimers:
    """Adds up wall seconds per named stage; `drain` returns and forgets them.

    Names become the metrics `time/<stage>_s`.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time the block under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere (a simulator worker, for example)."""
        self._seconds[name] += seconds

    def drain(self) -> dict[str, float]:
        """All stages as `time/<stage>_s`, then start again from zero."""
        row = {f"time/{name}_s": value for name, value in sorted(self._seconds.items())}
        self._seconds.clear()
        return row
