"""How step 4 runs its processes: a learner that waits, a pair that trains, a wrong peer that must be refused.

Every process is forked from one that has imported everything (`pirl.gate.forked`): a refusal must not cost the
minute that importing costs. Owns ports, logs and what is read from a refusal. Read `pirl.gate.mismatch_cases`
next.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from pirl.config.load import load_config
from pirl.errors import MismatchError
from pirl.evidence.bundle import StepWriter
from pirl.gate import forked
from pirl.gate.forked import ForkedGroup
from pirl.gate.session import GateFailedError, GateSession
from pirl.hooks import VARIABLE
from pirl.runtime.launch import free_port
from pirl.runtime.layout import RunFolder
from pirl.runtime.session import build_session
from pirl.transport.client import ActorLink
from pirl.transport.identity import Identity

DEADLINE_S = 120.0
"""Any refusal must come within this long, process start included."""
HEALTH_S = 20.0
_PAIR_S = 600.0
_ACTOR_GRACE_S = 60.0
_PARALLEL = 4
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

    process: ForkServerProcess
    folder: RunFolder
    port: int
    identity: Identity


def logs_of(gate: GateSession) -> Path:
    """Where the processes of this step write."""
    return gate.work / "logs" / "mismatch"


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
        GateFailedError: it does not answer.
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
    if not is_healthy(gate, host, timeout_s=DEADLINE_S):
        raise GateFailedError(f"the learner {name!r} does not answer; see its log")
    return host


def is_healthy(gate: GateSession, host: Host, *, timeout_s: float = HEALTH_S) -> bool:
    """Whether the learner accepts a valid peer now and hands it its parameters."""
    runtime = load_config(gate.config_path, [f"--runtime.port={host.port}"]).cfg.runtime
    try:
        with ActorLink(host.identity, runtime=runtime, rank=0) as link:
            link.connect(timeout_s=timeout_s)
            message = link.wait_for_version(0, timeout_s=timeout_s)
            return message is not None and bool(message.weights)
    except MismatchError:
        return False


def run_pair(
    gate: GateSession,
    step: StepWriter,
    *,
    name: str,
    actor_overrides: Sequence[str] = (),
    env: Mapping[str, str],
) -> dict[str, Any]:
    """A learner and its actors train once; the record of a case that follows from it.

    Raises:
        GateFailedError: the learner left no record.
    """
    started = time.monotonic()
    with ForkedGroup() as group:
        host = start_learner(
            gate, group, name=name, overrides=["--runtime.total_updates=1"], env=env
        )
        actors: list[ForkServerProcess] = []
        for rank in range(gate.loaded.cfg.runtime.actors):
            # The number of updates is part of the hash: a pair must be given the same one.
            argv = ["--config_path", gate.config_path, "--runtime.total_updates=1"]
            argv += [*actor_overrides, f"--runtime.port={host.port}", "--rank", str(rank)]
            gate.bundle.command(["python", "-m", "pirl.actor", *argv], comment=f"mismatch: {name}")
            log = logs_of(gate) / f"{name}-actor-{rank}.log"
            actors.append(group.start("pirl.actor", argv, env=env, log_path=log))
        codes = [forked.wait(host.process, _PAIR_S)]
        codes += [forked.wait(actor, _ACTOR_GRACE_S) for actor in actors]
    for role in ("learner", *(f"actor-{rank}" for rank in range(len(actors)))):
        step.log(f"{name}-{role}", logs_of(gate) / f"{name}-{role}.log")
    if not host.folder.run_record.exists():
        raise GateFailedError(f"the pair {name!r} left no record; see its logs")
    books = json.loads(host.folder.run_record.read_text())
    code = next((1 if c is None else c for c in codes if c != 0), 0)
    return {
        "direction": "actor-to-learner",
        "probe": "process",
        "hooks": books["hooks"],
        "exit_code": code,
        "deadline_s": DEADLINE_S,
        "elapsed_s": time.monotonic() - started,
        "fields": [],
        "transitions_accepted": books["counters"]["received"],
        "optimiser_steps": books["books"]["optimiser_steps"],
        "learner_healthy": code == 0,
    }


def run_cases(
    gate: GateSession, step: StepWriter, cases: Sequence[Case], host: Host, env: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every case in a process of its own, some at a time; whatever ends this block ends them."""
    for case in cases:
        gate.bundle.command(["python", "-m", *case.shown], comment=f"mismatch: {case.name}")
    with ThreadPoolExecutor(_PARALLEL) as pool, ForkedGroup() as group:
        rows = list(pool.map(lambda case: run_case(gate, step, case, group, env), cases))
    healthy = is_healthy(gate, host)
    for row in rows:
        row["learner_healthy"] = healthy
    return rows


def run_case(
    gate: GateSession, step: StepWriter, case: Case, group: ForkedGroup, env: Mapping[str, str]
) -> dict[str, Any]:
    """Start one wrong process, wait for its end, read what it said."""
    label = f"{case.name}-{case.direction}"
    log = logs_of(gate) / f"{label}.log"
    started = time.monotonic()
    module, *argv = case.argv
    beside = None
    if case.beside:
        other, *arguments = case.beside
        beside = group.start(other, arguments, env=env, log_path=log.with_suffix(".beside.log"))
    process = group.start(module, argv, env={**env, **case.env}, log_path=log)
    code = forked.wait(process, DEADLINE_S)
    if beside is not None:
        beside.terminate()
    elapsed = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace")
    if case.hidden is None:
        step.log(label, log)
    fields = _named_fields(text)
    if case.hidden is not None:
        fields = [f | {"ours": case.hidden[0], "theirs": case.hidden[1]} for f in fields]
    return {
        "class": case.name,
        "direction": case.direction,
        "probe": "process",
        "hooks": sorted(filter(None, {**os.environ, **case.env}.get(VARIABLE, "").split(","))),
        "exit_code": 0 if code is None else code,
        "deadline_s": DEADLINE_S,
        "elapsed_s": elapsed,
        "fields": fields,
        "transitions_accepted": 0,
        "optimiser_steps": 0,
        "learner_healthy": True,
    }


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
