"""A deliberate error of a run is one line in Prefect's log, not a traceback through its engine.

Owns the filter of the two loggers that Prefect tells the end of a run on. An error of no known kind keeps its
traceback. Imports nothing of Prefect.
"""

from __future__ import annotations

import logging

from pirl.errors import PirlError

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # A time limit of a step or of the flow is Prefect's own word for one.
        if isinstance(error, (PirlError, TimeoutError)):
            lines = [line.strip() for line in str(error).splitlines()]
            record.msg, record.args = "%s: %s", (type(error).__name__, "; ".join(lines))
            record.exc_info = None
        return True


_one_line = _OneLine()


def tell_in_one_line() -> None:
    """Have deliberate errors told so, in this process; calling it again changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_one_line)
