"""A simulator worker: `python -m pirl.envs.worker FD PARENT_PID`.

Owns the child's end of the socket pair and nothing else: it builds slots and answers requests until
told to close or until its parent is gone. It never imports torch by itself. Read
`pirl.envs.metaworld` or `pirl.envs.libero` next.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType

from pirl.envs.base import Slot
from pirl.envs.host import serve
from pirl.envs.protocol import Build, Built, Close, Failure, NotReady, Request
from pirl.errors import EnvError, EnvironmentNotReadyError
from pirl.foreign import as_pirl_error
from pirl.guard import run_guarded

_PR_SET_PDEATHSIG = 1
_PARENT_GONE = (EOFError, ConnectionResetError, BrokenPipeError)


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above.
    if os.getppid() != parent_pid:
        os._exit(1)


class _Reporting:
    """Makes an unexpected exception reach the parent; the process still ends with it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, _PARENT_GONE):
            return
        known = as_pirl_error(error)
        if isinstance(known, EnvironmentNotReadyError):
            self._connection.send(NotReady(what=known.what, remedy=known.remedy))
        else:
            self._connection.send(Failure(message=f"{type(error).__name__}: {error}"))


def run(connection: Connection) -> None:
    """Answer requests until `Close` or until the parent's end is closed."""
    slots: list[Slot] = []
    try:
        with _Reporting(connection):
            while True:
                request: Request = connection.recv()
                if isinstance(request, Close):
                    return
                try:
                    if isinstance(request, Build):
                        slots = request.settings.make_slots(request.count)
                        connection.send(Built())
                    else:
                        connection.send(serve(slots, request))
                except EnvironmentNotReadyError as error:
                    connection.send(NotReady(what=error.what, remedy=error.remedy))
                except EnvError as error:
                    connection.send(Failure(message=str(error)))
    except _PARENT_GONE:
        # The parent closed its end or died: there is nobody to answer.
        return
    finally:
        for slot in slots:
            slot.close()


def main(argv: Sequence[str]) -> int:
    """Set the process up, then `run`."""
    descriptor, parent_pid = int(argv[0]), int(argv[1])
    die_with_parent(parent_pid)
    # Both reach the whole group; the parent decides what a worker does then, and its death kills the worker.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    # Simulators write notices to standard output, which belongs to results.
    os.dup2(2, 1)
    connection = Connection(descriptor)
    run(connection)
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
