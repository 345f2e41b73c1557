"""What the processes of a run say, kept in its folder: `RUN/logs/ROLE.log`.

Owns when that is written: not before the learner has begun its work in the folder, which it wants empty, and
never into the folder of another run. Until then lines wait here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pirl.errors import EnvironmentNotReadyError
from pirl.files import Appender

logger = logging.getLogger(__name__)

FOLDER = "logs"
WAITING = 10_000
"""Lines that may wait, the last ones; a learner has its folder before it says much."""


class RunLog:
    """The log files of one run; safe to write to from several threads."""

    def __init__(self, root: Path, *, has_begun: Callable[[], bool]) -> None:
        """
        Args:
            root: the run folder.
            has_begun: whether the learner of this run has; asked until the answer is yes.
        """
        self._folder = root / FOLDER
        self._has_begun = has_begun
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, str]] = deque(maxlen=WAITING)
        self._files: dict[str, Appender] = {}
        self._is_open = False
        self._is_broken = False

    def write(self, role: str, line: str) -> None:
        """Keep a line of a process."""
        with self._lock:
            self._waiting.append((role, line))
            self._flush()

    def close(self) -> None:
        """Write what still waits, where the folder is ours; close the files."""
        with self._lock:
            self._flush()
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _flush(self) -> None:
        self._is_open = self._is_open or self._has_begun()
        while self._is_open and not self._is_broken and self._waiting:
            role, line = self._waiting.popleft()
            try:
                if role not in self._files:
                    self._files[role] = Appender(self._folder / f"{role}.log")
                self._files[role].write(f"{line}\n".encode())
            except EnvironmentNotReadyError as error:
                # The run does not depend on it; whoever watches has the lines on the screen.
                self._is_broken = True
                logger.warning("no more logs in %s: %s", self._folder, error)
