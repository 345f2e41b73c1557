"""Who a process is, by its own word: a nonce of its own, its start by the kernel's clock, the checks turned off.

One per process of the system, whatever roles it plays: two roles of one process write the same nonce. Read
`pirl.runtime.record` next.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psutil

from pirl.hooks import hooks_active
from pirl.journal.codec import from_json
from pirl.journal.metric_log import JsonLines, read_json_lines

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """What a process writes of itself when it begins its work in a run."""

    role: str
    nonce: str
    """32 hex digits."""
    pid: int
    started_unix: float
    """Unix seconds, by the kernel's clock."""
    hooks: tuple[str, ...]
    """Safety checks turned off in it."""


@cache
def _of_process(pid: int, started_unix: float) -> str:
    # Keyed by the process: a forked child has this module's memory, and another pid or start.
    return secrets.token_hex(16)


def own_mark(role: str) -> ProcessMark:
    """The mark of this process."""
    pid, started = os.getpid(), psutil.Process().create_time()
    return ProcessMark(
        role=role,
        nonce=_of_process(pid, started),
        pid=pid,
        started_unix=started,
        hooks=hooks_active(),
    )


def leave_mark(path: Path, role: str) -> None:
    """Append the mark of this process to `path`, where it stays when the process is killed, and to its log.

    Raises:
        EnvironmentNotReadyError: it cannot be written.
    """
    mark = own_mark(role)
    with JsonLines(path) as lines:
        lines.write(asdict(mark))
    logger.info("this process is %s", mark.nonce)


def read_marks(path: Path) -> list[ProcessMark]:
    """Every mark in a file, in order; none where there is no file.

    Raises:
        EvidenceError: a line is no mark.
    """
    if not path.exists():
        return []
    lines = read_json_lines(path, allow_torn_tail=True)
    return [from_json(ProcessMark, line, where=path.name) for line in lines]
