"""Real processes that start in milliseconds: forked from a server that has imported everything once.

Importing torch, transformers and LeRobot costs more than a whole refusal. A forked child is a process of its
own, with its own environment, log and exit code, and runs the very entry point of the command line. Used where a
step needs many short processes; learner and actors of the smoke and resume runs start from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import wait as sentinels_ready
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from pirl.guard import run_guarded
from pirl.runtime.procs import last_words_of, logged_lines

_GRACE_S = 5.0
_exit_code_pipes = threading.Lock()
"""Held where an exit code may be read. A fork server reports it once, through a pipe, and starting any process
reads the pipes of all: a second reader finds the end of the file, and Python takes that for exit code 255."""
PRELOAD = ["pirl.runtime.actor", "pirl.runtime.learner", "pirl.gate.peer_probe"]


def context() -> ForkServerContext:
    """The fork server; started with the first process, ended with this one."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


@dataclass(slots=True, kw_only=True)
class Forked:
    """One forked process, to be waited for as any other (`pirl.runtime.procs.Watched`)."""

    role: str
    """The stem of its log's name."""
    log_path: Path | None
    process: ForkServerProcess
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    """When it was first seen to have ended."""

    @property
    def sentinel(self) -> int:
        """Ready when the process has ended (`multiprocessing.connection.wait`)."""
        return self.process.sentinel

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        code = exit_code(self)
        if code is not None and self.ended is None:
            self.ended = time.monotonic()
        return code

    def seconds(self) -> float:
        """From its start until it was seen to have ended; until now while it runs."""
        self.poll()
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    def last_words(self) -> str:
        return last_words_of(logged_lines(self.log_path))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()


class ForkedGroup:
    """Forked processes that end together: leaving the block stops whatever still runs."""

    def __init__(self) -> None:
        self._processes: list[Forked] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self, module: str, argv: Sequence[str], *, env: Mapping[str, str], log_path: Path
    ) -> Forked:
        """Run `module.main(argv)` in a new process and session, its output in `log_path`.

        Raises:
            RuntimeError: the group was closed, possibly by another thread.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever kills the process before its first word still finds a log.
        log_path.touch()
        process = context().Process(
            target=_enter,
            args=(module, tuple(argv), {**os.environ, **env}, str(log_path)),
            name=module,
        )
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the group of forked processes is closed")
            with _exit_code_pipes:
                process.start()
            started = Forked(role=log_path.stem, log_path=log_path, process=process)
            self._processes.append(started)
        return started

    def close(self) -> None:
        """TERM what still runs, KILL it after a grace period; no process can be started afterwards."""
        with self._lock:
            self._is_closed = True
            alive = [process for process in self._processes if exit_code(process, 0.0) is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process in alive:
            wait(process, max(0.0, deadline - time.monotonic()))


def wait(process: Forked, timeout_s: float) -> int | None:
    """Exit code, or None when the deadline passes; the process is killed then."""
    code = exit_code(process, timeout_s)
    if code is None:
        process.kill()
        exit_code(process, _GRACE_S)
    return code


def exit_code(process: Forked, timeout_s: float = 0.0) -> int | None:
    """Exit code, or None while the process runs; the only reader of exit codes of forked processes."""
    sentinels_ready([process.sentinel], timeout_s)
    with _exit_code_pipes:
        # Not only where the pipe is ready: the server writes the code and then closes the pipe, and in between a
        # code that was read already leaves it empty. Python remembers the code.
        return process.process.exitcode


def _end_with_starter() -> None:
    """Kill this session when the process that asked for it ends, however that came about.

    The kernel's parent-death signal would not do: the parent is the fork server, which lives as long as any of
    its children.
    """
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os.killpg(os.getpid(), signal.SIGKILL)


def _enter(module: str, argv: Sequence[str], env: Mapping[str, str], log: str) -> None:
    """Body of the child."""
    os.setsid()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # multiprocessing keeps stream objects of the server; new ones write to the log.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    # The server's own environment is that of the first start.
    os.environ.clear()
    os.environ.update(env)
    sys.exit(run_guarded(import_module(module).main, list(argv)))
