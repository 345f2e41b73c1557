"""Shared memory that a step's processes left behind, told from what other programs of the machine use.

Owns the names that count. A segment does not say who made it; but what is left of a process that ended is held
by nobody, and what another program uses is held by that program.
"""

from __future__ import annotations

import os
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_PROCESSES = Path("/proc")
PATTERNS = ("psm_*", "torch_*", "sem.mp-*")
"""Names that Python's multiprocessing and torch give."""


def segments() -> frozenset[str]:
    """Names of the segments that there are, whoever made them."""
    return frozenset(path.name for pattern in PATTERNS for path in _SHARED_MEMORY.glob(pattern))


def abandoned(since: frozenset[str]) -> list[str]:
    """Names of this user's segments that were not there before and that no living process holds, in order."""
    names = [name for name in segments() - since if _is_own(_SHARED_MEMORY / name)]
    held = _held() if names else frozenset()
    return sorted(name for name in names if str(_SHARED_MEMORY / name) not in held)


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def _held() -> frozenset[str]:
    """Paths that living processes map or have open, as far as this user may see them."""
    held: set[str] = set()
    for process in _PROCESSES.glob("[0-9]*"):
        try:
            # The path is the sixth column of a line and may be absent.
            lines = (process / "maps").read_text(errors="replace").splitlines()
            held.update(line.split(maxsplit=5)[5] for line in lines if line.count("/"))
            held.update(str(file.readlink()) for file in (process / "fd").iterdir())
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return frozenset(held)
