"""How step 4 runs its processes: a learner that waits, a pair that trains, a wrong peer that must be refused.

Every process is forked from one that has imported everything (`pirl.gate.forked`): a refusal must not cost the
minute that importing costs. Owns ports, logs and what is read from a refusal. Read `pirl.gate.mismatch_cases`
next.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pirl.config.load import load_config
from pirl.errors import ExitCode, LinkClosedError, MismatchError
from pirl.evidence.bundle import StepWriter
from pirl.evidence.raw import read_object
from pirl.gate.forked import Forked, ForkedGroup
from pirl.gate.session import GateFailedError, GateSession
from pirl.hooks import VARIABLE
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
_MISMATCH_LINE = re.compile(
    r"^\s+(?P<field>[\w./ ()-]+): \w+ = (?P<ours>.*), \w+ = (?P<theirs>.*)$"
)
_FIELD_LINE = re.compile(r"^(?P<field>[\w.]+) = (?P<value>.*)$")
_EXPECTED_LINE = re.compile(r"^\s+expected: (?P<expected>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
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

    @property
    def shown(self) -> list[str]:
        """The command as evidence may show it."""
        if self.hidden is None:
            return list(self.argv)
        return [a if "token=" not in a else "--runtime.token=WITHHELD" for a in self.argv]


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
    gate.bundle.command(["python", "-m", "pirl.learner", *argv], comment=f"mismatch: {name}")
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
) -> None:
    """Contact the learner as a peer of this identity, in this process.

    Args:
        take_parameters: a valid peer also waits for what it would act with.

    Raises:
        MismatchError: one side refused.
        ProcessDiedError: the learner is gone.
        TooLateError: it does not answer.
    """
    runtime = load_config(gate.config_path, [f"--runtime.port={host.port}"]).cfg.runtime
    end = time.monotonic() + deadline_s

    def is_met() -> bool:
        try:
            with ActorLink(identity, runtime=runtime, rank=0) as link:
                link.connect(timeout_s=_TRY_S)
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


def is_healthy(gate: GateSession, host: Host) -> bool:
    """Whether the learner accepts a valid peer now and hands it its parameters.

    Raises:
        ProcessDiedError: the learner is gone.
    """
    try:
        meet(gate, host, host.identity, deadline_s=gate.allowed_s("contact"))
    except (MismatchError, TooLateError):
        return False
    return True


def run_pair(
    gate: GateSession,
    step: StepWriter,
    *,
    name: str,
    actor_overrides: Sequence[str] = (),
    env: Mapping[str, str],
) -> dict[str, Any]:
    """A learner and its actors train once; the record of a case that follows from it.

    A peer that is refused ends the pair: its learner would wait for it.

    Raises:
        ProcessDiedError, TooLateError: a process ended of something else, or the pair did not end.
        GateFailedError: the learner left no record.
    """
    started = time.monotonic()
    actors: list[Forked] = []
    try:
        with ForkedGroup() as group:
            host = start_learner(
                gate, group, name=name, overrides=["--runtime.total_updates=1"], env=env
            )
            for rank in range(gate.loaded.cfg.runtime.actors):
                # The number of updates is part of the hash: a pair must be given the same one.
                argv = ["--config_path", gate.config_path, "--runtime.total_updates=1"]
                argv += [*actor_overrides, f"--output_dir={host.folder.root}"]
                argv += [f"--runtime.port={host.port}", "--rank", str(rank)]
                gate.bundle.command(
                    ["python", "-m", "pirl.actor", *argv], comment=f"mismatch: {name}"
                )
                log = logs_of(gate) / f"{name}-actor-{rank}.log"
                actors.append(group.start("pirl.actor", argv, env=env, log_path=log))
            code = _end_of_pair(gate, host.process, actors)
    finally:
        keep_logs(gate, step, f"{name}-*.log")
    if not host.folder.run_record.exists():
        raise GateFailedError(f"the pair {name!r} left no record; see its logs")
    books = read_object(host.folder.run_record)
    return {
        "direction": "actor-to-learner",
        "probe": "process",
        "hooks": books["hooks"],
        "exit_code": code,
        "deadline_s": gate.allowed_s("refusal"),
        "elapsed_s": time.monotonic() - started,
        "fields": [],
        "transitions_accepted": books["counters"]["received"],
        "optimiser_steps": books["books"]["optimiser_steps"],
        "learner_healthy": code == 0,
    }


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
    gate: GateSession, step: StepWriter, cases: Sequence[Case], host: Host, env: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every case in a process of its own, some at a time; whatever ends this block ends them.

    Raises:
        ProcessDiedError: as `run_case`, of the first case that it happens to.
    """
    for case in cases:
        gate.bundle.command(["python", "-m", *case.shown], comment=f"mismatch: {case.name}")
    with ThreadPoolExecutor(_PARALLEL) as pool, ForkedGroup() as group:
        running = [
            pool.submit(run_case, gate, step, case, group, env, needs=[host.process])
            for case in cases
        ]
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for run in done:
            # An error leaves the block here, which ends the other cases.
            run.result()
        rows = [run.result() for run in running]
    healthy = is_healthy(gate, host)
    for row in rows:
        row["learner_healthy"] = healthy
    return rows


def run_case(
    gate: GateSession,
    step: StepWriter,
    case: Case,
    group: ForkedGroup,
    env: Mapping[str, str],
    *,
    needs: Sequence[Forked] = (),
) -> dict[str, Any]:
    """Start one wrong process, wait for its end, read what it said.

    Args:
        needs: without them the case shows nothing.

    Raises:
        ProcessDiedError: a signal ended the process, or one that the case needs is gone.
    """
    label = f"{case.name}-{case.direction}"
    log = logs_of(gate) / f"{label}.log"
    deadline_s = gate.allowed_s("refusal")
    started = time.monotonic()
    module, *argv = case.argv
    beside: list[Forked] = []
    if case.beside:
        other, *arguments = case.beside
        log_beside = log.with_suffix(".beside.log")
        beside.append(group.start(other, arguments, env=env, log_path=log_beside))
    process = group.start(module, argv, env={**env, **case.env}, log_path=log)
    if case.hidden is not None:
        # Its log is not kept, so no error may quote it.
        process = replace(process, log_path=None)
    try:
        code = _end_of_case(process, needs=[*needs, *beside], deadline_s=deadline_s)
    finally:
        for companion in beside:
            companion.terminate()
        if case.hidden is None:
            step.log(label, log)
    elapsed = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace")
    fields = _named_fields(text)
    if case.hidden is not None:
        fields = [f | {"ours": case.hidden[0], "theirs": case.hidden[1]} for f in fields]
    return {
        "class": case.name,
        "direction": case.direction,
        "probe": "process",
        "hooks": sorted(filter(None, {**os.environ, **case.env}.get(VARIABLE, "").split(","))),
        "exit_code": 0 if code is None else code,
        "deadline_s": deadline_s,
        "elapsed_s": elapsed,
        "fields": fields,
        "transitions_accepted": 0,
        "optimiser_steps": 0,
        "learner_healthy": True,
    }


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


def _named_fields(text: str) -> list[dict[str, str]]:
    """Fields with both values, from the message a refused process printed."""
    found: list[dict[str, str]] = []
    pending: dict[str, str] | None = None
    for line in text.splitlines():
        if match := _MISMATCH_LINE.match(line):
            found.append(match.groupdict())
        elif match := _FIELD_LINE.match(line):
            pending = {"field": match["field"], "ours": match["value"]}
        elif pending is not None and (match := _EXPECTED_LINE.match(line)):
            found.append(pending | {"theirs": match["expected"]})
            pending = None
    return found
