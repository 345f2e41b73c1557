"""What a process of pirl does first: its log lines and its signals. Imports nothing heavy."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType

from pirl.guard import stop_signals
from pirl.runtime.procs import run_first_acts

logger = logging.getLogger(__name__)

_PAUSE_S = 5.0


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C, SIGTERM or a closing terminal sets; the loops look at it and end in order."""
    stop = threading.Event()

    def handler(signum: int, _frame: FrameType | None) -> None:
        run_first_acts()
        logger.info("received %s, stopping", signal.Signals(signum).name)
        stop.set()

    for signum in stop_signals():
        signal.signal(signum, handler)
    return stop


class _Brief(logging.Filter):
    """One line without a traceback, and then none for a while: a peer decides how often there is something."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        is_due = time.monotonic() - self._last.get(record.name, -_PAUSE_S) >= _PAUSE_S
        if is_due:
            self._last[record.name] = time.monotonic()
        return is_due


_brief = _Brief()


def configure_logging(role: str) -> None:
    """One line per event on stderr, prefixed with the role."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {role} %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    # These libraries log every file they touch at INFO.
    for name in ("httpx", "urllib3", "filelock", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Here gRPC tells with a traceback of bytes that are no message and no text of a status.
    for name in ("grpc._common", "grpc._cython.cygrpc"):
        logging.getLogger(name).addFilter(_brief)
