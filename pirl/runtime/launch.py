"""`pirl launch`: a learner and its actors on one machine, with prefixed logs and one exit code.

Owns start order, log prefixes, progress, group shutdown and the process table. Refuses to know what the
processes say to each other.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from pirl.checkpoint.locate import resolve_checkpoint
from pirl.checkpoint.record import read_record
from pirl.config.load import LoadedConfig, load_config
from pirl.config.secret import token_environment, without_token
from pirl.errors import ExitCode
from pirl.evidence.metric_log import read_json_lines
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import Child, ProcessGroup, spawn
from pirl.runtime.session import configure_logging, stop_on_signals

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_ACTOR_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """How a launched run ended."""

    exit_code: ExitCode
    processes: list[dict[str, Any]]
    """Role, pid, command, exit code and duration of every process."""
    port: int


def launch(
    config_path: str,
    *,
    actors: int,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    record_video: bool = False,
    log_dir: Path | None = None,
    quiet: bool = False,
    stop: threading.Event | None = None,
    deadline_s: float | None = None,
    learner_module: str = "pirl.learner",
) -> LaunchResult:
    """Run learner and actors to the end; every process is gone when this returns.

    The run fails with the learner's code, or with the first failing actor's. With `log_dir`, each process
    writes its own log file; otherwise its lines appear on stderr behind its role.

    Args:
        learner_module: run as `python -m`; a negative control brings its own.

    A resumed run that has all its updates already is over: nothing is started, the result is OK.

    Raises:
        ConfigError: the config is invalid; nothing was started.
        CheckpointError: the run resumes and its checkpoint cannot be read; nothing was started.
    """
    given = [o for o in overrides if not o.startswith("--runtime.actors=")]
    loaded = load_config(config_path, [*given, f"--runtime.actors={actors}"])
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
    started = time.monotonic()
    with ProcessGroup() as group, _LogPump(log_dir, quiet=quiet) as pump:
        learner = group.add(pump.spawn("learner", [*base, learner_module, *tail], env))
        workers = [
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
        progress = _Progress(Path(output_dir), loaded.cfg.runtime.total_updates, quiet=quiet)
        code = _watch(learner, workers, stop, progress, started, deadline_s)
        progress.close()
        group.stop()
        table = [
            {
                "role": child.role,
                "pid": child.pid,
                "argv": list(child.argv),
                "exit_code": child.poll(),
                "seconds": round((child.ended_unix or time.time()) - child.started_unix, 2),
            }
            for child in group.children
        ]
    return LaunchResult(exit_code=code, processes=table, port=port)


def _is_finished(loaded: LoadedConfig) -> bool:
    """Whether the checkpoint that a run resumes from is its last one."""
    if not loaded.cfg.resume:
        return False
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
    progress: _Progress,
    started: float,
    deadline_s: float | None,
) -> ExitCode:
    """Wait for the learner; an actor that fails, a stop or the deadline ends the run."""
    while (code := learner.poll()) is None:
        failed = [w for w in workers if (w.poll() or 0) != 0]
        if failed:
            logger.error("%s ended with code %s; ending the run", failed[0].role, failed[0].poll())
            # The learner reports what it saw of that actor before the group is stopped.
            learner.wait(1.0)
            return _as_exit_code(failed[0].poll() or 1)
        if stop.is_set():
            return ExitCode.INTERRUPTED
        if deadline_s is not None and time.monotonic() - started > deadline_s:
            logger.error("the run did not end within %.0f s", deadline_s)
            return ExitCode.CHECK_FAILED
        progress.refresh()
        time.sleep(_POLL_S)
    progress.refresh()
    if code != 0:
        return _as_exit_code(code)
    for worker in workers:
        worker_code = worker.wait(_ACTOR_GRACE_S)
        if worker_code is None:
            logger.error("%s did not end after its learner", worker.role)
            return ExitCode.CHECK_FAILED
        if worker_code != 0:
            return _as_exit_code(worker_code)
    return ExitCode.OK


def _as_exit_code(code: int) -> ExitCode:
    return ExitCode(code) if code in {int(known) for known in ExitCode} else ExitCode.CHECK_FAILED


def free_port(host: str) -> int:
    """A TCP port that is free on `host` at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class _LogPump:
    """Gives every child its log: a file each, or its lines on stderr behind its role."""

    def __init__(self, log_dir: Path | None, *, quiet: bool) -> None:
        self._log_dir = log_dir
        self._quiet = quiet
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> _LogPump:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(timeout=5.0)

    def spawn(self, role: str, argv: Sequence[str], env: Mapping[str, str] | None) -> Child:
        if self._log_dir is not None:
            return spawn(role, argv, env=env, log_path=self._log_dir / f"{role}.log")
        child = spawn(role, argv, env=env, stdout=subprocess.PIPE)
        stream = child.process.stdout
        if stream is not None:
            thread = threading.Thread(target=self._copy, args=(role, stream), daemon=True)
            thread.start()
            self._threads.append(thread)
        return child

    def _copy(self, role: str, stream: IO[bytes]) -> None:
        for raw in stream:
            if self._quiet:
                continue
            with self._lock:
                tqdm.write(f"[{role}] {raw.decode(errors='replace').rstrip()}", file=sys.stderr)


class _Progress:
    """Updates done, on stderr, read from the learner's metric rows."""

    def __init__(self, output_dir: Path, total_updates: int, *, quiet: bool) -> None:
        self._path = RunFolder(output_dir).learner_metrics
        self._bar = tqdm(
            total=total_updates,
            unit="update",
            file=sys.stderr,
            # Without a terminal the learner's own lines show the progress.
            disable=quiet or not sys.stderr.isatty(),
            mininterval=1.0,
        )
        self._size = -1

    def refresh(self) -> None:
        """Show the last row; a file that has not grown is not read again."""
        size = self._path.stat().st_size if self._path.exists() else -1
        if size == self._size:
            return
        self._size = size
        rows = read_json_lines(self._path, allow_torn_tail=True)
        if rows:
            last = rows[-1]["metrics"]
            self._bar.n = int(rows[-1]["step"])
            self._bar.set_postfix_str(
                f"{last.get('rollout/successes', 0):.0f}/{last.get('rollout/episodes', 0):.0f} episodes, "
                f"kl {last.get('update/approx_kl', 0):.3g}"
            )
            self._bar.refresh()

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        self._bar.close()


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl launch`."""
    parser = argparse.ArgumentParser(prog="pirl launch", description=__doc__)
    parser.add_argument("--config_path", required=True)
    parser.add_argument("--actors", type=int, help="default: runtime.actors of the config")
    parser.add_argument("--log-dir", type=Path, help="one log file per process instead of stderr")
    parser.add_argument("--quiet", action="store_true", help="no logs and no progress on stderr")
    parser.add_argument("--json", action="store_true", help="the process table on stdout")
    args, overrides = parser.parse_known_args(list(argv))
    configure_logging("launch")
    actors = args.actors or load_config(args.config_path, overrides).cfg.runtime.actors
    result = launch(
        args.config_path,
        actors=actors,
        overrides=overrides,
        log_dir=args.log_dir,
        quiet=args.quiet,
        stop=stop_on_signals(),
    )
    if args.json:
        sys.stdout.write(
            json.dumps({"exit_code": int(result.exit_code), "processes": result.processes}) + "\n"
        )
    return int(result.exit_code)
