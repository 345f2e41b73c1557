"""What the records of mismatch-negative measure. One pure function per criterion `mismatch/<name>`.

Owns the classes of mismatch, the fields of `raw/mismatch-negative/*` (`docs/evidence.md`) and the
judgement of one case, which the teeth test turns against itself. Read `pirl.evidence.policy` next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pirl.evidence.criteria import Measured
from pirl.evidence.raw import (
    RawRecords,
    Record,
    boolean,
    integer,
    number,
    objects,
    sequence,
    some,
    text,
)

STEP = "mismatch-negative"
CONTROL = "control"

MAX_DEADLINE_S = 180.0
"""No case may give itself more time than this to be refused."""

DIRECTIONS = ("actor-to-learner", "learner-to-actor", "checkpoint")
"""Who notices the mismatch: the learner, the actor, or a process that loads a checkpoint."""

REFUSED = (5, 2)
"""Exit codes of a refusal: mismatch, or invalid config."""

TEETH = ("handshake", "manifest")
"""Checks of `pirl.hooks` that the teeth test must disable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchClass:
    """One class of mismatch that must be refused."""

    name: str
    fields: tuple[str, ...]
    """Last part of the field that the refusal names; empty means any."""
    needs_process: bool
    """Whether the case must run a real process; otherwise a real client in the harness will do."""


def _row(name: str, *fields: str, process: bool = True) -> MismatchClass:
    return MismatchClass(name=name, fields=fields, needs_process=process)


CLASSES = (
    _row("config-hash", "config_hash"),
    _row("config-path", "config_path"),
    _row("variant", "variant"),
    _row("recipe-spelling", "recipe"),
    _row("policy-type", "policy_type", "type"),
    _row("missing-metadata"),
    _row("policy-architecture", "policy_architecture", "architecture"),
    _row("action-mode", "action_mode"),
    _row("denoising-steps", "denoising_steps", "num_denoising_steps"),
    _row("protocol-version", "protocol_version"),
    _row("token", "token"),
    _row("checkpoint-identity"),
    _row("checkpoint-manifest"),
    _row("resume-other-variant", "variant"),
    _row("execution-horizon", "executed_steps", process=False),
    _row("control-mode", "control_mode", process=False),
    _row("domain-id", "domain_id", process=False),
    _row("noise-settings", "noise_settings", process=False),
    _row("cameras", "cameras", process=False),
    _row("suite", "environment", process=False),
    _row("state-split", "state_split", process=False),
    _row("run-id", "run_id", process=False),
    _row("package-version", process=False),
)
"""Every class that must have a case."""

_BY_NAME = {row.name: row for row in CLASSES}


def _cases(raw: RawRecords) -> list[Record]:
    """Every case after the control."""
    cases = [r for r in raw.lines(STEP, "cases.jsonl") if text(r, "class") != CONTROL]
    return some(cases, "mismatch case")


def _named(case: Record) -> bool:
    """Whether the refusal names the expected field with both, different, values."""
    row = _BY_NAME.get(text(case, "class"))
    expected = row.fields if row else ()
    for entry in objects(case, "fields"):
        leaf = text(entry, "field").split(".")[-1]
        has_both = "ours" in entry and "theirs" in entry and entry["ours"] != entry["theirs"]
        if has_both and (not expected or leaf in expected):
            return True
    return False


def _in_time(case: Record) -> bool:
    deadline = number(case, "deadline_s")
    return number(case, "elapsed_s") <= deadline <= MAX_DEADLINE_S


def case_problems(case: Record) -> list[str]:
    """Why a case does not show a clean refusal; empty when it does."""
    checks = {
        "exit code": integer(case, "exit_code") in REFUSED,
        "deadline": _in_time(case),
        "named field": _named(case),
        "transitions": integer(case, "transitions_accepted") == 0,
        "optimiser steps": integer(case, "optimiser_steps") == 0,
        "learner health": boolean(case, "learner_healthy"),
    }
    return [what for what, holds in checks.items() if not holds]


def _class(case: Record) -> str:
    return text(case, "class")


def _count(raw: RawRecords, problem: str, shown: Callable[[Record], str] = _class) -> Measured:
    cases = _cases(raw)
    bad = [shown(case) for case in cases if problem in case_problems(case)]
    return Measured(value=len(bad), detail=", ".join(bad) or f"{len(cases)} cases")


def control_accepted(raw: RawRecords) -> Measured:
    """Whether the first case is an identical pair that was accepted by the same harness."""
    first = raw.lines(STEP, "cases.jsonl")[0]
    accepted = (
        text(first, "class") == CONTROL
        and text(first, "probe") == "process"
        and integer(first, "exit_code") == 0
        and integer(first, "transitions_accepted") > 0
        and not objects(first, "fields")
        and boolean(first, "learner_healthy")
    )
    detail = f"{integer(first, 'transitions_accepted')} decisions accepted"
    return Measured(value=accepted, detail=detail)


def classes_missing(raw: RawRecords) -> Measured:
    """Classes of mismatch without a case of the required kind."""
    processes = {text(c, "class") for c in _cases(raw) if text(c, "probe") == "process"}
    clients = {text(c, "class") for c in _cases(raw) if text(c, "probe") == "client"}
    missing = [
        row.name
        for row in CLASSES
        if row.name not in (processes if row.needs_process else processes | clients)
    ]
    return Measured(value=len(missing), detail=", ".join(missing) or f"{len(CLASSES)} classes")


def directions_missing(raw: RawRecords) -> Measured:
    """Directions in which no mismatch was tried."""
    tried = {text(case, "direction") for case in _cases(raw)}
    missing = [direction for direction in DIRECTIONS if direction not in tried]
    return Measured(value=len(missing), detail=", ".join(missing))


def wrong_exit_code(raw: RawRecords) -> Measured:
    """Cases that did not end with exit code 5 or 2."""
    return _count(raw, "exit code", lambda c: f"{_class(c)}: {integer(c, 'exit_code')}")


def late(raw: RawRecords) -> Measured:
    """Cases refused after their deadline, or with a deadline that is too long."""
    return _count(raw, "deadline")


def unnamed(raw: RawRecords) -> Measured:
    """Cases whose refusal does not name the field with both values."""
    return _count(raw, "named field")


def accepted_transitions(raw: RawRecords) -> Measured:
    """Transitions accepted from a mismatched peer."""
    cases = _cases(raw)
    total = sum(integer(case, "transitions_accepted") for case in cases)
    return Measured(value=total, detail=f"{len(cases)} cases")


def optimiser_steps(raw: RawRecords) -> Measured:
    """Optimiser steps taken for a mismatched peer."""
    cases = _cases(raw)
    total = sum(integer(case, "optimiser_steps") for case in cases)
    return Measured(value=total, detail=f"{len(cases)} cases")


def unhealthy_learners(raw: RawRecords) -> Measured:
    """Cases after which the learner did not serve a valid actor."""
    return _count(raw, "learner health")


def toothless(raw: RawRecords) -> Measured:
    """Disabled checks whose case would still be judged a clean refusal."""
    records = raw.lines(STEP, "teeth.jsonl")
    blunt = [text(r, "disabled") for r in records if not case_problems(r)]
    return Measured(value=len(blunt), detail=", ".join(blunt) or f"{len(records)} checks disabled")


def teeth_missing(raw: RawRecords) -> Measured:
    """Checks that no process disabled on purpose and reported as disabled."""
    records = raw.lines(STEP, "teeth.jsonl")
    tried = {text(r, "disabled") for r in records if r["disabled"] in sequence(r, "hooks")}
    missing = [check for check in TEETH if check not in tried]
    return Measured(value=len(missing), detail=", ".join(missing) or ", ".join(sorted(tried)))


def checks_disabled(raw: RawRecords) -> Measured:
    """Ordinary cases that ran with a check turned off."""
    bad = [text(c, "class") for c in raw.lines(STEP, "cases.jsonl") if c.get("hooks") != []]
    return Measured(value=len(bad), detail=", ".join(bad))
