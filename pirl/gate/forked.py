"""Real processes that start in milliseconds: forked from a server that has imported everything once.

Importing torch, transformers and LeRobot costs more than a whole refusal. A forked child is a process of its
own, with its own environment, log and exit code, and runs the very entry point of the command line. Used where a
step needs many short processes; learner and actors of the smoke and resume runs start from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from pirl.guard import run_guarded

PRELOAD = ["pirl.runtime.actor", "pirl.runtime.learner", "pirl.gate.peer_probe"]


def context() -> ForkServerContext:
    """The fork server; started with the first process, ended with this one."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


def start(
    module: str, argv: Sequence[str], *, env: Mapping[str, str], log_path: Path
) -> ForkServerProcess:
    """Run `module.main(argv)` in a new process and session, its output in `log_path`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    process = context().Process(
        target=_enter, args=(module, tuple(argv), dict(env), str(log_path)), name=module
    )
    process.start()
    return process


def wait(process: ForkServerProcess, timeout_s: float) -> int | None:
    """Exit code, or None when the deadline passes; the process is killed then."""
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        process.join(5.0)
        return None
    return process.exitcode


def _enter(module: str, argv: Sequence[str], env: Mapping[str, str], log: str) -> None:
    """Body of the child."""
    os.setsid()
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # multiprocessing keeps stream objects of the server; new ones write to the log.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(env)
    sys.exit(run_guarded(import_module(module).main, list(argv)))
