"""`pirl launch`: a learner (one process or several) and its actors on one machine, prefixed logs, one exit code.

Owns start order, group shutdown and the process table. Refuses to know what the processes say to each other.
Read `pirl.runtime.screen` for what a person sees of it.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pirl.config.arguments import launch_parser
from pirl.config.check import CheckedConfig, check_config
from pirl.config.command_line import parse
from pirl.config.secret import token_environment, without_token
from pirl.config.strictjson import read_json_object
from pirl.errors import ExitCode
from pirl.ownership import owner_of
from pirl.runtime.entry import configure_logging, stop_on_signals
from pirl.runtime.layout import RunFolder
from pirl.runtime.mark import read_marks
from pirl.runtime.procs import (
    STOP_GRACE_S,
    Child,
    ProcessDiedError,
    ProcessGroup,
    TooLateError,
    how_they_ended,
    wait_until,
)
from pirl.runtime.record import RunRecord
from pirl.runtime.run_log import RunLog
from pirl.runtime.screen import LogPump, Progress
from pirl.runtime.seat import role_of, seats_here
from pirl.terminal import is_terminal

logger = logging.getLogger(__name__)

_ACTOR_GRACE_S = 30.0
_LEARNER_GRACE_S = 1.0
_OWN_FAILURE = frozenset({*ExitCode} - {ExitCode.OK, ExitCode.INTERRUPTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """How a launched run ended."""

    exit_code: ExitCode
    processes: list[dict[str, Any]]
    """Role, pid, command, exit code and duration of every process."""
    port: int
    reason: str = ""
    """Which process ended of what, or which deadline passed; empty when the exit code is 0."""


def launch(
    config_path: str,
    *,
    actors: int,
    learner_processes: int | None = None,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    record_video: bool = False,
    log_dir: Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
    stop: threading.Event | None = None,
    deadline_s: float | None = None,
    learner_module: str = "pirl.learner",
) -> LaunchResult:
    """Run learner and actors to the end; every process is gone when this returns.

    The run fails with the learner's code, or with the first failing actor's. The lines of a process appear on
    stderr behind its role and in `logs/` of the run folder; with `log_dir`, in a file there and nowhere else.

    Args:
        learner_processes: how many are the learner; `parallelism.dp_replicate` of the config by default.
        verbose: lines of the processes whole on a terminal too.
        learner_module: run as `python -m`; a negative control brings its own.

    A resumed run that has all its updates already is over: nothing is started, the result is OK.

    Raises:
        ConfigError: the config is invalid; nothing was started.
        CheckpointError: the run resumes and its checkpoint cannot be read; nothing was started.
    """
    given = [o for o in overrides if not o.startswith("--runtime.actors=")]
    if learner_processes is not None:
        given = [o for o in given if not o.startswith("--parallelism.dp_replicate=")]
        given.append(f"--parallelism.dp_replicate={learner_processes}")
    loaded = check_config(config_path, [*given, f"--runtime.actors={actors}"])
    # Everybody on the machine can read the arguments of a process; its environment is its own.
    given, env = without_token(given), token_environment(loaded.cfg.runtime, env)
    port = loaded.cfg.runtime.port or free_port(loaded.cfg.runtime.host)
    if _is_finished(loaded):
        return LaunchResult(exit_code=ExitCode.OK, processes=[], port=port)
    given = [o for o in given if not o.startswith("--runtime.port=")]
    output_dir = loaded.cfg.output_dir
    if output_dir is None:
        output_dir = Path("outputs/train") / time.strftime("%Y-%m-%d/%H-%M-%S_pirl", time.gmtime())
        given.append(f"--output_dir={output_dir}")
    arguments = [*given, f"--runtime.actors={actors}", f"--runtime.port={port}"]
    base = [sys.executable, "-m"]
    tail = ["--config_path", config_path, *arguments]
    stop = stop or threading.Event()
    is_cut = is_terminal() and not verbose
    folder = RunFolder(Path(output_dir))
    if not quiet:
        logger.info("run folder %s", output_dir)
    group = ProcessGroup(grace_s=STOP_GRACE_S)

    def has_begun() -> bool:
        return _has_begun(group.children, folder)

    log = RunLog(folder.root, has_begun=has_begun)
    with (
        tempfile.TemporaryDirectory(prefix="pirl-launch-") as meeting,
        group,
        LogPump(log_dir, log, quiet=quiet, is_cut=is_cut) as pump,
    ):
        learner, *others = [
            group.add(
                pump.spawn(role_of(rank), [*base, learner_module, *tail], {**(env or {}), **seat})
            )
            for rank, seat in enumerate(
                seats_here(loaded.cfg.parallelism.dp_replicate, Path(meeting))
            )
        ]
        record = RunRecord(
            folder.launch_record, role="launch", is_ours=lambda: _owns(learner.pid, folder)
        )
        record.facts["processes"] = []
        actor_processes = [
            group.add(
                pump.spawn(
                    f"actor-{rank}",
                    [
                        *base,
                        "pirl.actor",
                        *tail,
                        "--rank",
                        str(rank),
                        *(["--record-video"] if record_video and rank == 0 else []),
                    ],
                    env,
                )
            )
            for rank in range(actors)
        ]
        progress = Progress(
            folder,
            loaded.cfg.runtime.total_updates,
            quiet=quiet,
            has_lines=log_dir is None,
            has_begun=has_begun,
        )
        with record:
            record.facts["processes"] = [_without_command(child) for child in group.children]
            workers = [*others, *actor_processes]
            code, reason = _watch(learner, workers, stop, progress, deadline_s)
            dead = [child for child in group.children if child.poll()]
            progress.close()
            record.write(_ending(code))
            group.stop()
            record.facts["processes"] = [_without_command(child) for child in group.children]
            record.write(_ending(code), complete=True)
        # Told to stop, the learner may still have ended of what it saw. An actor ends of losing its simulator.
        dead += [learner] if learner not in dead and learner.poll() in _OWN_FAILURE else []
        if code is not ExitCode.OK:
            pump.drain()
            reason = reason or how_they_ended(dead)
            logger.error("the run ends with exit code %d: %s", code, reason)
        table = [_without_command(c) | {"argv": list(c.argv)} for c in group.children]
    return LaunchResult(exit_code=code, processes=table, port=port, reason=reason)


def _ending(code: ExitCode) -> str:
    """How the run ended, as records of the other processes say it."""
    return "finished" if code is ExitCode.OK else code.name.lower()


def _without_command(child: Child) -> dict[str, Any]:
    """A process for a record; a command line can carry the token."""
    return {
        "role": child.role,
        "pid": child.pid,
        "exit_code": child.poll(),
        "seconds": round((child.ended_unix or time.time()) - child.started_unix, 2),
    }


def _owns(learner_pid: int, folder: RunFolder) -> bool:
    """Whether the learner that was started has, or had, the folder: another one may have been there first."""
    owner = owner_of(folder.root)
    if owner is not None:
        return owner.pid == learner_pid
    try:
        return read_json_object(folder.run_record).get("pid") == learner_pid
    except (OSError, ValueError):
        return False


def _has_begun(children: Sequence[Child], folder: RunFolder) -> bool:
    """Whether the learner that was started works in the folder: it owned it before, to look whether it may."""
    started = {(child.pid, int(child.started_unix)) for child in children[:1]}
    return any(
        mark.pid == pid and mark.started_unix >= unix - 1
        for mark in read_marks(folder.marks("learner"))
        for pid, unix in started
    )


def _is_finished(loaded: CheckedConfig) -> bool:
    """Whether the checkpoint that a run resumes from is its last one."""
    if not loaded.cfg.resume:
        return False
    # Only now: a checkpoint is read with torch, and a run that starts afresh has none.
    from pirl.checkpoint.locate import resolve_checkpoint
    from pirl.checkpoint.record import read_record

    done = int(read_record(resolve_checkpoint(loaded.source_path))["policy_version"])
    wanted = loaded.cfg.runtime.total_updates
    if done >= wanted:
        logger.info(
            "finished already: %d of %d updates; raise --runtime.total_updates to go on",
            done,
            wanted,
        )
    return done >= wanted


def _watch(
    learner: Child,
    workers: Sequence[Child],
    stop: threading.Event,
    progress: Progress,
    deadline_s: float | None,
) -> tuple[ExitCode, str]:
    """Wait for the learner, then for all others; one that fails, a stop or the deadline ends the run.

    Returns:
        The exit code, and why the run failed where no exit code of a process says it.
    """

    def is_over() -> bool:
        progress.refresh()
        return stop.is_set() or learner.poll() is not None

    try:
        wait_until(
            is_over,
            what="the end of the run",
            unharmed=workers,
            deadline_s=float("inf") if deadline_s is None else deadline_s,
        )
        code = learner.poll()
        if code is None:
            return ExitCode.INTERRUPTED, "told to stop"
        if code != 0:
            return _as_exit_code(code), ""
        wait_until(
            lambda: all(worker.poll() is not None for worker in workers),
            what="the end of the other processes after their learner's",
            unharmed=workers,
            deadline_s=_ACTOR_GRACE_S,
        )
    except ProcessDiedError as error:
        # The learner reports what it saw of that actor before the group is stopped.
        learner.wait(_LEARNER_GRACE_S)
        return _as_exit_code(error.dead[0].poll() or 1), ""
    except TooLateError as error:
        return ExitCode.CHECK_FAILED, str(error)
    return _as_exit_code(next((c for w in workers if (c := w.poll())), 0)), ""


def _as_exit_code(code: int) -> ExitCode:
    return ExitCode(code) if code in {int(known) for known in ExitCode} else ExitCode.CHECK_FAILED


def free_port(host: str) -> int:
    """A TCP port that is free on `host` at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl launch`."""
    args, overrides = parse(launch_parser(), argv)
    configure_logging("launch")
    actors = args.actors
    if actors is None:
        actors = check_config(args.config_path, overrides).cfg.runtime.actors
    result = launch(
        args.config_path,
        actors=actors,
        learner_processes=args.learner_processes,
        overrides=overrides,
        log_dir=args.log_dir,
        quiet=args.quiet,
        verbose=args.verbose,
        stop=stop_on_signals(),
    )
    if args.json:
        answer = {
            "exit_code": int(result.exit_code),
            "reason": result.reason,
            "processes": result.processes,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
    return int(result.exit_code)
