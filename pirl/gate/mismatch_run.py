"""How step 4 runs its processes: a learner that waits, a pair that trains, a wrong peer that must be refused.

Every process is forked from one that has imported everything (`pirl.gate.forked`): a refusal must not cost the
minute that importing costs. Owns ports, logs and what is read from a refusal. Read `pirl.gate.mismatch_cases`
next.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pirl.audit.bundle import StepWriter
from pirl.audit.logs import named_fields
from pirl.audit.records.mismatch import Case, Contact, NamedField
from pirl.config.load import load_config
from pirl.errors import ExitCode, LinkClosedError, MismatchError
from pirl.gate.forked import Forked, ForkedGroup
from pirl.gate.session import GateFailedError, GateSession
from pirl.hooks import VARIABLE
from pirl.journal.fields import read_object
from pirl.journal.metric_log import read_json_lines
from pirl.runtime.launch import free_port
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import ProcessDiedError, TooLateError, wait_until
from pirl.runtime.session import build_session
from pirl.transport.client import ActorLink
from pirl.transport.identity import Identity

_TRY_S = 2.0
"""Between two looks at whether the learner lives; as long as a link's own tries."""
_PARALLEL = 4
_REFUSED = (ExitCode.MISMATCH, ExitCode.USAGE)
_contacts = threading.Lock()
"""Held by a valid contact: the host has room for one peer of a rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongPeer:
    """One wrong process: what it is, how it is started and which side notices."""

    name: str
    argv: tuple[str, ...]
    """Module with a `main`, then its arguments."""
    beside: tuple[str, ...] = ()
    """Module and arguments of a process that runs as long as the case does."""
    direction: str = "actor-to-learner"
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden: tuple[str, str] | None = None
    """Stand-ins for values that must not be shown (a token)."""
    run_dir: Path | None = None
    """Of a learner that would train by itself if it were let in; what it did is read from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A learner that waits for actors, and how to reach it."""

    process: Forked
    folder: RunFolder
    port: int
    identity: Identity


def logs_of(gate: GateSession) -> Path:
    """Where the processes of this step write."""
    return gate.work / "logs" / "mismatch"


def keep_logs(gate: GateSession, step: StepWriter, pattern: str) -> None:
    """Copy the logs of this step that match to the bundle, whatever became of their processes."""
    for log in sorted(logs_of(gate).glob(pattern)):
        step.log(log.stem, log)


def start_learner(
    gate: GateSession,
    group: ForkedGroup,
    *,
    name: str,
    step: StepWriter,
    overrides: Sequence[str] = (),
    env: Mapping[str, str],
) -> Host:
    """A learner of the gate's config at a free port, already answering.

    Raises:
        ProcessDiedError, TooLateError: it does not answer.
        MismatchError: it refuses a valid peer.
    """
    folder = RunFolder(gate.work / f"mismatch-{name}")
    loaded = load_config(gate.config_path, overrides)
    port = free_port(loaded.cfg.runtime.host)
    argv = ["--config_path", gate.config_path, *overrides]
    argv += [f"--output_dir={folder.root}", f"--runtime.port={port}"]
    step.command(["python", "-m", "pirl.learner", *argv], about=name)
    process = group.start(
        "pirl.learner", argv, env=env, log_path=logs_of(gate) / f"{name}-learner.log"
    )
    identity = build_session(loaded, device="cpu", run_id="").identity
    host = Host(process=process, folder=folder, port=port, identity=identity)
    meet(gate, host, identity, deadline_s=gate.allowed_s("answer"))
    return host


def meet(
    gate: GateSession,
    host: Host,
    identity: Identity,
    *,
    deadline_s: float,
    take_parameters: bool = True,
) -> str:
    """Contact the learner as a peer of this identity, in this process; returns the run id that it gave.

    Args:
        take_parameters: a valid peer also waits for what it would act with.

    Raises:
        MismatchError: one side refused.
        ProcessDiedError: the learner is gone.
        TooLateError: it does not answer.
    """
    runtime = load_config(gate.config_path, [f"--runtime.port={host.port}"]).cfg.runtime
    end = time.monotonic() + deadline_s
    run_ids: list[str] = []

    def is_met() -> bool:
        try:
            with ActorLink(identity, runtime=runtime, rank=0) as link:
                link.connect(timeout_s=_TRY_S)
                run_ids.append(link.identity.run_id)
                if not take_parameters:
                    return True
                # A stream that breaks ends this wait at once.
                message = link.wait_for_version(0, timeout_s=max(_TRY_S, end - time.monotonic()))
        except LinkClosedError:
            return False
        return message is not None and bool(message.weights)

    wait_until(
        is_met,
        what=f"an answer of {host.process.role}",
        needs=[host.process],
        deadline_s=deadline_s,
    )
    return run_ids[-1]


def contact(gate: GateSession, step: StepWriter, host: Host) -> Contact:
    """Meet the host now as a valid peer, which is handed its parameters.

    Raises:
        ProcessDiedError: the learner is gone.
    """
    with _contacts:
        started, run_id = step.now(), None
        with suppress(MismatchError, TooLateError):
            run_id = meet(gate, host, host.identity, deadline_s=gate.allowed_s("contact"))
        return Contact(started_s=started, seconds=step.now() - started, run_id=run_id)


def run_pair(
    gate: GateSession,
    step: StepWriter,
    *,
    name: str,
    actor_overrides: Sequence[str] = (),
    env: Mapping[str, str],
) -> Case:
    """A learner and its actors train once; the record of a case that follows from it.

    A peer that is refused ends the pair: its learner would wait for it.

    Raises:
        ProcessDiedError, TooLateError: a process ended of something else, or the pair did not end.
        GateFailedError: the learner left no record.
    """
    started = step.now()
    actors: list[Forked] = []
    try:
        with ForkedGroup() as group:
            host = start_learner(
                gate, group, name=name, step=step, overrides=["--runtime.total_updates=1"], env=env
            )
            for rank in range(gate.loaded.cfg.runtime.actors):
                # The number of updates is part of the hash: a pair must be given the same one.
                argv = ["--config_path", gate.config_path, "--runtime.total_updates=1"]
                argv += [*actor_overrides, f"--output_dir={host.folder.root}"]
                argv += [f"--runtime.port={host.port}", "--rank", str(rank)]
                step.command(["python", "-m", "pirl.actor", *argv], about=name)
                log = logs_of(gate) / f"{name}-actor-{rank}.log"
                actors.append(group.start("pirl.actor", argv, env=env, log_path=log))
            code = _end_of_pair(gate, host.process, actors)
    finally:
        keep_logs(gate, step, f"{name}-*.log")
    if not host.folder.run_record.exists():
        raise GateFailedError(f"the pair {name!r} left no record; see its logs")
    books = read_object(host.folder.run_record)
    return Case(
        name=name,
        direction="actor-to-learner",
        probe="process",
        hooks=tuple(books["hooks"]),
        exit_code=code,
        deadline_s=gate.allowed_s("refusal"),
        started_s=started,
        elapsed_s=step.now() - started,
        fields=(),
        decisions=books["counters"]["received"],
        optimiser_steps=books["books"]["optimiser_steps"],
        contact=None,
    )


def _end_of_pair(gate: GateSession, learner: Forked, actors: Sequence[Forked]) -> int:
    """0 when every process finished, or the exit code of the actor that was refused.

    Raises:
        ProcessDiedError, TooLateError: as `run_pair`.
    """
    everyone = [learner, *actors]

    def is_over() -> bool:
        codes = [process.poll() for process in everyone]
        return any(code in _REFUSED for code in codes[1:]) or None not in codes

    what = f"the end of {learner.role} and its actors"
    wait_until(is_over, what=what, unharmed=everyone, deadline_s=gate.allowed_s("pair"))
    failed = [process for process in everyone if process.poll()]
    if any(process.poll() not in _REFUSED for process in failed):
        raise ProcessDiedError(what, failed)
    return failed[0].poll() or 0 if failed else 0


def run_cases(
    gate: GateSession,
    step: StepWriter,
    peers: Sequence[WrongPeer],
    host: Host,
    env: Mapping[str, str],
) -> list[Case]:
    """Every case in a process of its own, some at a time, each followed by its own valid contact with the host;
    whatever ends this block ends them.

    Raises:
        ProcessDiedError: as `run_case`, of the first case that it happens to.
    """
    for peer in peers:
        step.command(["python", "-m", *peer.argv], about=peer.name)

    def run(peer: WrongPeer) -> Case:
        case = run_case(gate, step, peer, group, env, needs=[host.process])
        return replace(case, contact=contact(gate, step, host))

    with ThreadPoolExecutor(_PARALLEL) as pool, ForkedGroup() as group:
        running = [pool.submit(run, peer) for peer in peers]
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for ended in done:
            # An error leaves the block here, which ends the other cases.
            ended.result()
        return [ended.result() for ended in running]


def run_case(
    gate: GateSession,
    step: StepWriter,
    peer: WrongPeer,
    group: ForkedGroup,
    env: Mapping[str, str],
    *,
    needs: Sequence[Forked] = (),
) -> Case:
    """Start one wrong process, wait for its end, read what it said.

    Args:
        needs: without them the case shows nothing.

    Raises:
        ProcessDiedError: a signal ended the process, or one that the case needs is gone.
    """
    label = f"{peer.name}-{peer.direction}"
    log = logs_of(gate) / f"{label}.log"
    deadline_s = gate.allowed_s("refusal")
    started = step.now()
    module, *argv = peer.argv
    beside: list[Forked] = []
    if peer.beside:
        other, *arguments = peer.beside
        log_beside = log.with_suffix(".beside.log")
        beside.append(group.start(other, arguments, env=env, log_path=log_beside))
    process = group.start(module, argv, env={**env, **peer.env}, log_path=log)
    if peer.hidden is not None:
        # Its log is not kept, so no error may quote it.
        process = replace(process, log_path=None)
    try:
        code = _end_of_case(process, needs=[*needs, *beside], deadline_s=deadline_s)
    finally:
        for companion in beside:
            companion.terminate()
        if peer.hidden is None:
            step.log(label, log)
    elapsed = step.now() - started
    fields = named_fields(log.read_text(encoding="utf-8", errors="replace"))
    if peer.hidden is not None:
        ours, theirs = peer.hidden
        fields = tuple(
            NamedField(field_name=f.field_name, ours=ours, theirs=theirs) for f in fields
        )
    decisions, steps = (None, None) if peer.run_dir is None else own_books(RunFolder(peer.run_dir))
    return Case(
        name=peer.name,
        direction=peer.direction,
        probe="process",
        hooks=tuple(sorted(filter(None, {**os.environ, **peer.env}.get(VARIABLE, "").split(",")))),
        exit_code=code,
        deadline_s=deadline_s,
        started_s=started,
        elapsed_s=elapsed,
        fields=fields,
        decisions=decisions,
        optimiser_steps=steps,
        contact=None,
    )


def own_books(folder: RunFolder) -> tuple[int, int]:
    """Decisions and optimiser steps of a learner, by its record; without one, by what it left on disk."""
    if folder.run_record.exists():
        books: dict[str, Any] = dict(read_object(folder.run_record))
        taken = books.get("counters", {}).get("received", 0)
        return taken, books.get("books", {}).get("optimiser_steps", 0)
    rows = [
        len(read_json_lines(path, allow_torn_tail=True)) if path.exists() else 0
        for path in (folder.episodes, folder.learner_metrics)
    ]
    return rows[0], rows[1]


def _end_of_case(process: Forked, *, needs: Sequence[Forked], deadline_s: float) -> int | None:
    """Exit code, or None of a process that outlived its deadline: it was let in, and is killed.

    Raises:
        ProcessDiedError: as `run_case`.
    """
    try:
        wait_until(
            lambda: process.poll() is not None,
            what=f"the end of {process.role}",
            needs=needs,
            deadline_s=deadline_s,
        )
    except TooLateError:
        process.kill()
        return None
    code = process.poll()
    if code is not None and code < 0:
        # Nobody refuses by a signal.
        raise ProcessDiedError("a wrong peer neither was refused nor accepted", [process])
    return code
