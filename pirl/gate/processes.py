"""Process records that every step shares: labels instead of process ids, and what was left behind.

Owns the environment variable by which a gate finds its own descendants again. Refuses to know what the
processes did.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from pirl.gate import segments

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

    def leftovers(self, *, labels: Sequence[str], ports: Sequence[int]) -> dict[str, Any]:
        """The record `leftovers.json`; descendants get a moment to be reaped."""
        deadline = time.monotonic() + _SETTLE_S
        while self._descendants() and time.monotonic() < deadline:
            time.sleep(0.1)
        return {
            "looked_for": {
                "processes": list(labels),
                "ports": list(ports),
                "shared_memory": list(segments.PATTERNS),
            },
            "processes": self._descendants(),
            "ports": [port for port in ports if _is_open(port)],
            "shared_memory": segments.abandoned(self.before),
        }

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


def process_records(
    table: Sequence[Mapping[str, Any]], *, hooks: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Rows of `processes.json` from a launch's process table.

    A label stands for a process id: it tells processes apart and names no process of this machine.

    Args:
        hooks: by role, the checks that the process itself recorded as turned off.
    """
    return [
        {
            "role": row["role"],
            "label": f"process-{index + 1}-{row['role']}",
            "exit_code": row["exit_code"],
            "seconds": row["seconds"],
            "hooks": list(hooks.get(str(row["role"]), ())),
        }
        for index, row in enumerate(table)
    ]
