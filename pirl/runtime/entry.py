"""What a process of pirl does first: its log lines and its signals. Imports nothing heavy."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

from pirl.guard import stop_signals
from pirl.runtime.procs import run_first_acts

logger = logging.getLogger(__name__)


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


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


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
    # gRPC says so with a traceback when the text of a status was damaged on the way; the line names it.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_without_traceback)
