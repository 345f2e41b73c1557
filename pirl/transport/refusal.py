"""A message that its sender alone has to pay for: the error, and the log line of what a peer brings about.

Owns the short names of reasons and how often a line is logged that a peer can cause again and again.
Read `pirl.transport.service` next.
"""

from __future__ import annotations

import logging
import threading
import time

from pirl.errors import TransportError

UNREADABLE = "unreadable"
"""The bytes are no message at all, as a damaged connection would make them: worth another try."""
MALFORMED = "malformed"
"""A whole message of another form: keys, dtypes, shapes, sizes."""

_MAX_LINE = 300


class RefusedMessageError(TransportError):
    """What no actor may send; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def reason_of(error: TransportError) -> str:
    """The short name of why a message was refused."""
    return error.reason if isinstance(error, RefusedMessageError) else MALFORMED


class RefusalLog:
    """At most one short line per reason and `pause_s`; the next line says how many were left out."""

    def __init__(self, logger: logging.Logger, *, pause_s: float = 5.0) -> None:
        self._logger = logger
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def line(self, reason: str, text: str, *, level: int = logging.WARNING) -> None:
        """Log `text`, cut to one short line, unless `reason` was logged a moment ago."""
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(reason, -self._pause_s) < self._pause_s:
                self._left_out[reason] = self._left_out.get(reason, 0) + 1
                return
            self._last[reason] = now
            left_out = self._left_out.pop(reason, 0)
        more = f" ({left_out} more since the last line)" if left_out else ""
        self._logger.log(level, "%s%s", " ".join(text.split())[:_MAX_LINE], more)
