"""What a step measures of its processes: who they were by their own word, how they ended, what they left behind.

Owns the environment variable by which a gate finds its own descendants again. Refuses to know what the processes
did.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from pirl.audit.records.common import Process
from pirl.audit.records.smoke import Leftovers, LookedFor
from pirl.gate import segments
from pirl.runtime.mark import ProcessMark

MARK = "PIRL_GATE_MARK"
_SETTLE_S = 5.0


@dataclass(slots=True)
class Watch:
    """Finds every process, port and shared-memory segment that a step started and left behind."""

    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    before: frozenset[str] = field(default_factory=segments.segments)

    @property
    def env(self) -> dict[str, str]:
        """Inherited by every descendant, however it was started."""
        return {MARK: self.mark}

    def leftovers(self, *, roles: Sequence[str], ports: Sequence[int]) -> Leftovers:
        """The record; descendants get a moment to be reaped."""
        deadline = time.monotonic() + _SETTLE_S
        while self._descendants() and time.monotonic() < deadline:
            time.sleep(0.1)
        return Leftovers(
            looked_for=LookedFor(
                processes=tuple(roles), ports=tuple(ports), shared_memory=segments.PATTERNS
            ),
            processes=tuple(self._descendants()),
            ports=tuple(port for port in ports if _is_open(port)),
            shared_memory=tuple(segments.abandoned(self.before)),
        )

    def _descendants(self) -> list[str]:
        found: list[str] = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(MARK) == self.mark
                if marked and process.pid != os.getpid():
                    found.append(process.name())
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def process_rows(
    table: Sequence[Mapping[str, Any]],
    *,
    marks: Sequence[ProcessMark],
    since_start: Callable[[float], float],
    suffix: str = "",
) -> list[Process]:
    """Rows of `processes.jsonl` from a process table and from what the processes wrote of themselves.

    A mark belongs to a row when the process wrote the process id that the table has for it; the id itself stays on
    this machine.

    Args:
        table: role, pid, exit code and seconds of every process.
        marks: of all of them, in any order.
        since_start: the clock of the gate.
        suffix: added to every role.
    """
    by_pid = {mark.pid: mark for mark in marks}
    rows: list[Process] = []
    for row in table:
        mark = by_pid.get(row["pid"])
        rows.append(
            Process(
                role=f"{row['role']}{suffix}",
                nonce=mark and mark.nonce,
                started_s=mark and since_start(mark.started_unix),
                seconds=float(row["seconds"]),
                exit_code=row["exit_code"],
                hooks=mark and mark.hooks,
            )
        )
    return rows
