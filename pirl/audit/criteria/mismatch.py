"""Criteria of mismatch-negative.

Owns the classes of mismatch and the judgement of one case, which the teeth test turns against itself. Read
`pirl.audit.policy` next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pirl.audit.criterion import IS_TRUE, Group, Measured, counted
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.mismatch import Case, Host

criterion = Group("mismatch", files.MISMATCH)

CONTROL = "control"

MAX_DEADLINE_S = 180.0
"""No case may give itself more time than this to be refused."""

DIRECTIONS = ("actor-to-learner", "learner-to-actor", "checkpoint")
"""Who notices the mismatch: the learner, the actor, or a process that loads a checkpoint."""

REFUSED = (5, 2)
"""Exit codes of a refusal: mismatch, or invalid config."""

TEETH = {"handshake": "config-hash", "manifest": "checkpoint-manifest"}
"""Checks of `pirl.hooks` that the teeth test must disable, and the class whose case they refuse."""


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
    _row("policy-settings", "policy_settings", process=False),
    _row("noise-settings", "noise_settings", process=False),
    _row("cameras", "cameras", process=False),
    _row("suite", "environment", process=False),
    _row("state-split", "state_split", process=False),
    _row("run-id", "run_id", process=False),
    _row("package-version", process=False),
)
"""Every class that must have a case."""

_BY_NAME = {row.name: row for row in CLASSES}


def _is_named(case: Case) -> bool:
    """Whether the refusal names the expected field with both, different, values."""
    row = _BY_NAME.get(case.name)
    expected = row.fields if row else ()
    return any(
        f.ours != f.theirs and (not expected or f.field_name.split(".")[-1] in expected)
        for f in case.fields
    )


def _is_followed(case: Case, host: Host) -> bool:
    """Whether the host learner accepted a valid peer after this case, and not before its end."""
    contact = case.contact
    return (
        contact is not None
        and contact.run_id == host.run_id
        and contact.started_s >= case.started_s + case.elapsed_s
    )


def case_problems(case: Case, host: Host) -> list[str]:
    """Why a case does not show a clean refusal; empty when it does."""
    decisions = host.decisions if case.decisions is None else case.decisions
    steps = host.optimiser_steps if case.optimiser_steps is None else case.optimiser_steps
    checks = {
        "exit code": case.exit_code in REFUSED,
        "deadline": case.elapsed_s <= case.deadline_s <= MAX_DEADLINE_S,
        "named field": _is_named(case),
        "transitions": decisions == 0,
        "optimiser steps": steps == 0,
        "learner health": _is_followed(case, host),
    }
    return [what for what, holds in checks.items() if not holds]


def _name(case: Case) -> str:
    return case.name


def _count(raw: RawRecords, problem: str, shown: Callable[[Case], str] = _name) -> Measured:
    cases, host = raw.all(files.CASES), raw.one(files.HOST)
    bad = [shown(case) for case in cases if problem in case_problems(case, host)]
    return counted(bad, f"{len(cases)} cases")


@criterion(IS_TRUE, True, row="G1")
def control_accepted(raw: RawRecords) -> Measured:
    """An identical pair is accepted first, by the same harness, and trains."""
    control = raw.one(files.CONTROL)
    accepted = (
        control.name == CONTROL
        and control.probe == "process"
        and control.exit_code == 0
        and (control.decisions or 0) > 0
        and (control.optimiser_steps or 0) > 0
        and not control.fields
    )
    is_first = all(
        case.started_s >= control.started_s + control.elapsed_s for case in raw.all(files.CASES)
    )
    return Measured(value=accepted and is_first, detail=f"{control.decisions} decisions accepted")


@criterion("==", 0, "classes", row="G2")
def classes_missing(raw: RawRecords) -> Measured:
    """There is a case of the required kind for every class of mismatch."""
    cases = raw.all(files.CASES)
    processes = {case.name for case in cases if case.probe == "process"}
    every = {case.name for case in cases}
    missing = [r.name for r in CLASSES if r.name not in (processes if r.needs_process else every)]
    return counted(missing, f"{len(CLASSES)} classes")


@criterion("==", 0, "directions", row="G2")
def directions_missing(raw: RawRecords) -> Measured:
    """Learner, actor and checkpoint side each refused somebody."""
    tried = {case.direction for case in raw.all(files.CASES)}
    missing = [direction for direction in DIRECTIONS if direction not in tried]
    return counted(missing)


@criterion("==", 0, "cases", row="G3")
def wrong_exit_code(raw: RawRecords) -> Measured:
    """Every wrong peer ended with exit code 5 or 2."""
    return _count(raw, "exit code", lambda c: f"{c.name}: {c.exit_code}")


@criterion("==", 0, "cases", row="G3")
def late(raw: RawRecords) -> Measured:
    """Every wrong peer ended within its deadline, of 180 s at most."""
    return _count(raw, "deadline")


@criterion("==", 0, "cases", row="G3")
def unnamed(raw: RawRecords) -> Measured:
    """Every refusal names the field with both values."""
    return _count(raw, "named field")


def _total(raw: RawRecords, of_cases: Sequence[int | None], of_host: int) -> Measured:
    return Measured(value=of_host + sum(n or 0 for n in of_cases), detail=f"{len(of_cases)} cases")


@criterion("==", 0, "decisions", row="G3")
def accepted_transitions(raw: RawRecords) -> Measured:
    """Nothing was accepted from a wrong peer."""
    cases, host = raw.all(files.CASES), raw.one(files.HOST)
    return _total(raw, [case.decisions for case in cases], host.decisions)


@criterion("==", 0, "steps", row="G3")
def optimiser_steps(raw: RawRecords) -> Measured:
    """No optimiser step was taken for a wrong peer."""
    cases, host = raw.all(files.CASES), raw.one(files.HOST)
    return _total(raw, [case.optimiser_steps for case in cases], host.optimiser_steps)


@criterion("==", 0, "cases", row="G3")
def unhealthy_learners(raw: RawRecords) -> Measured:
    """After each case the same host learner accepted a valid peer."""
    return _count(raw, "learner health")


@criterion("==", 0, "cases", row="G4")
def checks_disabled(raw: RawRecords) -> Measured:
    """No safety check was turned off in an ordinary case."""
    ordinary = [raw.one(files.CONTROL), *raw.all(files.CASES)]
    bad = [case.name for case in ordinary if case.hooks]
    return counted(bad)


@criterion("==", 0, "checks", row="G4")
def teeth_missing(raw: RawRecords) -> Measured:
    """Each check was disabled on purpose once, by the word of the process that ran without it."""
    teeth = raw.all(files.TEETH)
    tried = {tooth.disabled for tooth in teeth if tooth.disabled in (tooth.reported or ())}
    missing = [check for check in TEETH if check not in tried]
    return counted(missing, ", ".join(sorted(tried)))


@criterion("==", 0, "checks", row="G4")
def toothless(raw: RawRecords) -> Measured:
    """With a check disabled the case is judged as let in: its exit code is no refusal."""
    teeth = raw.all(files.TEETH)
    blunt = [tooth.disabled for tooth in teeth if tooth.case.exit_code in REFUSED]
    return counted(blunt, f"{len(teeth)} checks disabled")
