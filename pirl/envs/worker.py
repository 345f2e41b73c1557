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
from multiprocessing.connection import Connection
from types import TracebackType

from pirl.envs.base import Slot
from pirl.envs.host import serve
from pirl.envs.protocol import Build, Built, Close, Failure, NotReady, Request
from pirl.errors import EnvError, EnvironmentNotReadyError

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above.
    if os.getppid() != parent_pid:
        os._exit(1)


def report_before_dying(connection: Connection) -> None:
    """Make an unexpected exception reach the parent; the traceback still goes to stderr."""
    shown = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        shown(kind, error, traceback)
        if not connection.closed:
            connection.send(Failure(message=f"{kind.__name__}: {error}"))

    sys.excepthook = hook


def run(connection: Connection) -> None:
    """Answer requests until `Close` or until the parent's end is closed."""
    slots: list[Slot] = []
    try:
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
    except (EOFError, ConnectionResetError, BrokenPipeError):
        # The parent closed its end or died: there is nobody to answer.
        return
    finally:
        for slot in slots:
            slot.close()


def main(argv: list[str]) -> None:
    """Set the process up, then `run`."""
    descriptor, parent_pid = int(argv[0]), int(argv[1])
    die_with_parent(parent_pid)
    # Ctrl-C reaches the whole foreground group; the parent decides what a worker does then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Simulators write notices to standard output, which belongs to results.
    os.dup2(2, 1)
    connection = Connection(descriptor)
    report_before_dying(connection)
    run(connection)


if __name__ == "__main__":
    main(sys.argv[1:])
