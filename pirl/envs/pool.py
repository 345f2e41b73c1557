"""Simulators that are idle until a slot of the same process needs their task again.

Owns a small least-recently-used store. Refuses to know what a simulator is beyond `close()`. Used
by `pirl.envs.metaworld` and `pirl.envs.libero`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Pool:
    """Builds simulators by task and keeps at most `idle` unused ones."""

    def __init__(self, build: Callable[[int], Any], *, idle: int) -> None:
        self._build = build
        self._limit = idle
        self._idle: list[tuple[int, Any]] = []

    def take(self, task_id: int) -> Any:
        """An unused simulator of the task, the most recent first, or a new one."""
        for position in range(len(self._idle) - 1, -1, -1):
            if self._idle[position][0] == task_id:
                return self._idle.pop(position)[1]
        return self._build(task_id)

    def give(self, task_id: int, simulator: Any) -> None:
        """Take a simulator back; the oldest idle one is closed when there are too many."""
        self._idle.append((task_id, simulator))
        while len(self._idle) > self._limit:
            self._idle.pop(0)[1].close()

    def close(self) -> None:
        """Close every idle simulator; idempotent."""
        while self._idle:
            self._idle.pop()[1].close()
